// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

package inband

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// AuthInfo is how a call finds its connection.
type AuthInfo struct {
	credentials.AuthInfo // Of the credentials that were wrapped; nil without.
	Conn                 *Conn
}

// AuthType implements credentials.AuthInfo.
func (a AuthInfo) AuthType() string {
	if a.AuthInfo != nil {
		return a.AuthInfo.AuthType()
	}
	return "insecure"
}

// WrapTransport gives transport credentials whose connections carry descriptors. base may be nil: no security of its
// own.
func WrapTransport(base credentials.TransportCredentials) credentials.TransportCredentials {
	return &transport{base: base}
}

type transport struct {
	base credentials.TransportCredentials
}

type handshake func(net.Conn) (net.Conn, credentials.AuthInfo, error)

func (t *transport) wrap(raw net.Conn, shake handshake) (net.Conn, credentials.AuthInfo, error) {
	stream, ok := raw.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("inband: descriptors need a unix socket, this connection is a %T", raw)
	}
	conn := NewConn(stream)
	if t.base == nil {
		return conn, AuthInfo{Conn: conn}, nil
	}
	secured, info, err := shake(conn)
	if err != nil {
		conn.Close() // gRPC closes the raw connection only, not what came with it.
		return nil, nil, err
	}
	return secured, AuthInfo{AuthInfo: info, Conn: conn}, nil
}

func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return t.wrap(raw, func(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
		return t.base.ClientHandshake(ctx, authority, conn)
	})
}

func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return t.wrap(raw, func(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
		return t.base.ServerHandshake(conn)
	})
}

func (t *transport) Info() credentials.ProtocolInfo {
	if t.base == nil {
		return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
	}
	return t.base.Info()
}

func (t *transport) Clone() credentials.TransportCredentials {
	if t.base == nil {
		return &transport{}
	}
	return &transport{base: t.base.Clone()}
}

func (t *transport) OverrideServerName(name string) error {
	if t.base == nil {
		return nil
	}
	return t.base.OverrideServerName(name)
}

// FromContext gives the connection that a call came over, in a server's handler. The connection's descriptors are those
// of all its calls.
func FromContext(ctx context.Context) (*Conn, error) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("inband: no peer in this context; it belongs to no call")
	}
	info, ok := from.AuthInfo.(AuthInfo)
	if !ok {
		return nil, errors.New("inband: the server's credentials do not come from WrapTransport")
	}
	return info.Conn, nil
}

// Call carries the descriptors of one call of a client: give it to the call as grpc.PerRPCCredentials. What is sent
// before the call waits for it; it is queued on the connection when gRPC asks the credentials for metadata, so that it
// leaves no later than the call's headers.
type Call struct {
	mu    sync.Mutex
	own   []int // Kept until Close, for a call that gRPC makes again.
	conn  *Conn
	bound chan struct{}
}

// NewCall makes an empty set. Close it when the call is done with.
func NewCall() *Call { return &Call{bound: make(chan struct{})} }

// Send queues a duplicate of fd, and gives the URL for the message.
func (c *Call) Send(fd int) (string, error) {
	inode, err := InodeOf(fd)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return inode.URL(), c.conn.Send(fd)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return "", fmt.Errorf("duplicate a descriptor: %w", err)
	}
	c.own = append(c.own, own)
	return inode.URL(), nil
}

// Recv gives the descriptor that came with this URL.
func (c *Call) Recv(ctx context.Context, url string) (*os.File, error) {
	inode, err := ParseURL(url)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.bound:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	return conn.Recv(ctx, inode)
}

// Close closes what the call holds. What is queued on the connection still leaves.
func (c *Call) Close() {
	c.mu.Lock()
	own := c.own
	c.own = nil
	c.mu.Unlock()
	closeAll(own)
}

// GetRequestMetadata is gRPC asking: the call has its connection now. It adds no metadata.
func (c *Call) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	request, ok := credentials.RequestInfoFromContext(ctx)
	if !ok {
		return nil, errors.New("inband: gRPC gave no request information")
	}
	info, ok := request.AuthInfo.(AuthInfo)
	if !ok {
		return nil, errors.New("inband: the channel's credentials do not come from WrapTransport")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fd := range c.own {
		if err := info.Conn.Send(fd); err != nil {
			return nil, err
		}
	}
	if c.conn == nil {
		close(c.bound)
	}
	c.conn = info.Conn
	return nil, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: a unix socket needs none.
func (c *Call) RequireTransportSecurity() bool { return false }
