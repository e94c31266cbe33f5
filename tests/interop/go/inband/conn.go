// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

// Package inband carries descriptors on the HTTP/2 connection itself, the way that gRPC programs in Go do.
//
// It is a test peer, written from the description of that wire in tests/interop/go/README.md, with its quirks: they are
// what a C++ peer has to live with. Programs of your own take the Go package that their mesh uses.
package inband

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Burst is how many descriptors leave with one Write, and how many the reader has room for in one read.
const Burst = 64

// ErrClosed is what senders and askers get once the connection is gone.
var ErrClosed = errors.New("inband: the connection is closed")

// Conn is a unix stream connection whose bytes carry descriptors. TLS may sit on top of it. All methods may be called
// on any goroutine.
type Conn struct {
	net.Conn
	unix *net.UnixConn

	writing sync.Mutex // Held for a Write, so that its bytes stay together.

	mu      sync.Mutex
	closed  bool
	queue   []int         // To be sent, ours to close.
	kept    map[Inode]int // Received: the first of each inode, until the connection closes.
	changed chan struct{} // Closed and replaced with each arrival.
}

// NewConn wraps conn, and owns it.
func NewConn(conn *net.UnixConn) *Conn {
	return &Conn{Conn: conn, unix: conn, kept: map[Inode]int{}, changed: make(chan struct{})}
}

// Send queues a duplicate of fd. It leaves with the next bytes that are written.
func (c *Conn) Send(fd int) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("duplicate a descriptor: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		unix.Close(own)
		return ErrClosed
	}
	c.queue = append(c.queue, own)
	return nil
}

// Recv gives a duplicate of the descriptor that came with this inode, once it is there. Any number of askers get one
// each.
func (c *Conn) Recv(ctx context.Context, inode Inode) (*os.File, error) {
	for {
		c.mu.Lock()
		if kept, ok := c.kept[inode]; ok {
			own, err := unix.FcntlInt(uintptr(kept), unix.F_DUPFD_CLOEXEC, 3)
			c.mu.Unlock()
			if err != nil {
				return nil, fmt.Errorf("duplicate %s: %w", inode.URL(), err)
			}
			return os.NewFile(uintptr(own), inode.URL()), nil
		}
		closed, changed := c.closed, c.changed
		c.mu.Unlock()
		if closed {
			return nil, ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s did not come: %w", inode.URL(), ctx.Err())
		}
	}
}

// Write sends what is queued, each descriptor with one byte of b, and then the rest of b. What has no byte here, or is
// beyond the burst, waits for the next Write.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	fds := c.take(min(Burst, len(b)))
	written := 0
	for i, fd := range fds {
		n, _, err := c.unix.WriteMsgUnix(b[i:i+1], unix.UnixRights(fd), nil)
		unix.Close(fd)
		written += n
		if err != nil {
			closeAll(fds[i+1:])
			return written, err
		}
	}
	if written == len(b) {
		return written, nil
	}
	n, err := c.unix.Write(b[written:])
	return written + n, err
}

// Read keeps the descriptors that come with the bytes.
func (c *Conn) Read(b []byte) (int, error) {
	control := controlBuffers.Get().(*[]byte)
	defer controlBuffers.Put(control)
	n, controlled, flags, _, err := c.unix.ReadMsgUnix(b, *control) // Sets MSG_CMSG_CLOEXEC.
	if n < 0 {
		n = 0 // ReadMsgUnix says -1 with an error, which io.Reader must not.
	}
	if controlled > 0 {
		if keepErr := c.keep((*control)[:controlled]); keepErr != nil && err == nil {
			err = keepErr
		}
		if flags&unix.MSG_CTRUNC != 0 && err == nil {
			err = errors.New("inband: descriptors were lost (MSG_CTRUNC)")
		}
	}
	return n, err
}

// Close closes the connection and all that came or waits with it.
func (c *Conn) Close() error {
	c.mu.Lock()
	queue, kept := c.queue, c.kept
	c.queue, c.kept = nil, map[Inode]int{}
	if !c.closed {
		c.closed = true
		close(c.changed)
	}
	c.mu.Unlock()
	err := c.Conn.Close()
	closeAll(queue)
	for _, fd := range kept {
		unix.Close(fd)
	}
	return err
}

// take removes the first of the queue, at most limit.
func (c *Conn) take(limit int) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit = min(limit, len(c.queue))
	fds := c.queue[:limit:limit]
	c.queue = c.queue[limit:]
	return fds
}

// keep files what arrived. A second descriptor of an inode is closed, even if it is another open file.
func (c *Conn) keep(control []byte) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return err
	}
	var surplus []int
	c.mu.Lock()
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // Other ancillary data.
		}
		for _, fd := range fds {
			inode, err := InodeOf(fd)
			if _, again := c.kept[inode]; err != nil || again || c.closed {
				surplus = append(surplus, fd)
				continue
			}
			c.kept[inode] = fd
		}
	}
	if !c.closed {
		close(c.changed)
		c.changed = make(chan struct{})
	}
	c.mu.Unlock()
	closeAll(surplus)
	return nil
}

var controlBuffers = sync.Pool{New: func() interface{} {
	buffer := make([]byte, unix.CmsgSpace(Burst*4))
	return &buffer
}}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
