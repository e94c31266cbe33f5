// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

package inband

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair makes a Conn, and the bare socket at its other end.
func pair(t *testing.T) (*Conn, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "pair")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := NewConn(conn.(*net.UnixConn))
	t.Cleanup(func() {
		wrapped.Close()
		unix.Close(fds[1])
	})
	return wrapped, fds[1]
}

func file(t *testing.T, content string) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	made := os.NewFile(uintptr(fd), content)
	t.Cleanup(func() { made.Close() })
	if _, err := made.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	return made
}

func content(t *testing.T, fd int) string {
	t.Helper()
	buffer := make([]byte, 64)
	n, err := unix.Pread(fd, buffer, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// next reads once from a bare socket: the bytes, and the contents of the descriptors that came with them.
func next(t *testing.T, socket, size int) (string, []string) {
	t.Helper()
	buffer, control := make([]byte, size), make([]byte, 4096)
	n, controlled, _, _, err := unix.Recvmsg(socket, buffer, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil {
		t.Fatal(err)
	}
	var contents []string
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			contents = append(contents, content(t, fd))
			unix.Close(fd)
		}
	}
	return string(buffer[:n]), contents
}

func inodeOf(t *testing.T, f *os.File) Inode {
	t.Helper()
	inode, err := InodeOf(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return inode
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestEachDescriptorGoesWithOneByte(t *testing.T) {
	conn, peer := pair(t)
	for i := 0; i < 3; i++ {
		if err := conn.Send(int(file(t, fmt.Sprint("file ", i)).Fd())); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := conn.Write([]byte("abcdef")); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	for i, want := range []string{"a", "b", "c"} {
		// There is room for more, and more is there: the kernel ends a read behind a descriptor's message.
		bytes, contents := next(t, peer, 100)
		if bytes != want || fmt.Sprint(contents) != fmt.Sprint([]string{fmt.Sprint("file ", i)}) {
			t.Errorf("read %q with %q", bytes, contents)
		}
	}
	if bytes, contents := next(t, peer, 100); bytes != "def" || contents != nil {
		t.Errorf("then read %q with %q", bytes, contents)
	}
}

func TestOneWriteCarriesNoMoreThanItHasBytesNorThanABurst(t *testing.T) {
	conn, peer := pair(t)
	for i := 0; i < 2+Burst+1; i++ {
		if err := conn.Send(int(file(t, fmt.Sprint(i)).Fd())); err != nil {
			t.Fatal(err)
		}
	}
	for _, write := range []struct{ bytes, descriptors int }{{2, 2}, {200, Burst}, {5, 1}} {
		if n, err := conn.Write(make([]byte, write.bytes)); n != write.bytes || err != nil {
			t.Fatal(n, err)
		}
		bytes, descriptors := 0, 0
		for bytes < write.bytes {
			got, contents := next(t, peer, 1)
			bytes += len(got)
			descriptors += len(contents)
		}
		if descriptors != write.descriptors {
			t.Errorf("%d bytes came with %d descriptors, expected %d", bytes, descriptors, write.descriptors)
		}
	}
}

func sendTo(t *testing.T, socket int, data string, fds ...int) {
	t.Helper()
	if err := unix.Sendmsg(socket, []byte(data), unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
}

func TestEachAskerGetsADuplicateOfTheFirstOfAnInode(t *testing.T) {
	conn, peer := pair(t)
	first := file(t, "shared")
	reopened, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", first.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer reopened.Close()
	sendTo(t, peer, "a", int(first.Fd()))
	sendTo(t, peer, "b", int(reopened.Fd()))
	for i := 0; i < 2; i++ {
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < 3; i++ {
		got, err := conn.Recv(soon(t), inodeOf(t, first))
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		// kcmp(KCMP_FILE): 0 for the same open file.
		pid := uintptr(unix.Getpid())
		if order, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, 0, got.Fd(), first.Fd(), 0); order != 0 || errno != 0 {
			t.Errorf("asker %d got another open file: kcmp says %d, %v", i, order, errno)
		}
	}
}

func TestAFullBufferOfDescriptorsInOneRead(t *testing.T) {
	conn, peer := pair(t)
	var files []*os.File
	var fds []int
	for i := 0; i < Burst; i++ {
		files = append(files, file(t, fmt.Sprint(i)))
		fds = append(fds, int(files[i].Fd()))
	}
	sendTo(t, peer, "x", fds...)
	if n, err := conn.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for i, f := range files {
		got, err := conn.Recv(soon(t), inodeOf(t, f))
		if err != nil {
			t.Fatal(err)
		}
		if text := content(t, int(got.Fd())); text != fmt.Sprint(i) {
			t.Errorf("descriptor %d holds %q", i, text)
		}
		got.Close()
	}
}

func TestCloseClosesAllAndEndsTheWait(t *testing.T) {
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("connection", func(t *testing.T) {
		conn, peer := pair(t)
		f := file(t, "kept")
		sendTo(t, peer, "a", int(f.Fd()))
		if n, err := conn.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if err := conn.Send(int(f.Fd())); err != nil {
			t.Fatal(err)
		}
		waited := make(chan error)
		go func() {
			_, err := conn.Recv(soon(t), Inode{Dev: 1, Ino: 0})
			waited <- err
		}()
		conn.Close()
		if err := <-waited; !errors.Is(err, ErrClosed) {
			t.Errorf("the wait ended with %v", err)
		}
		if err := conn.Send(int(f.Fd())); !errors.Is(err, ErrClosed) {
			t.Errorf("Send says %v", err)
		}
	})
	after, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Errorf("%d descriptors before, %d after", len(before), len(after))
	}
}

func TestURLs(t *testing.T) {
	inode := Inode{Dev: 64769, Ino: 1<<64 - 1}
	for _, text := range []string{inode.URL(), inode.URL() + "?fd=3"} {
		if got, err := ParseURL(text); got != inode || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "file:///1/2", "inode://1", "inode://x/2", "inode://1/-2", "inode://1/2/3"} {
		if got, err := ParseURL(text); err == nil {
			t.Errorf("%q was taken for %v", text, got)
		}
	}
}
