// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

// A client in Go. It hands the server a file, and gets a pipe back.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"grpcfd.test/inband"
	pb "grpcfd.test/notespb"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("Go client: ")
	if len(os.Args) != 2 {
		log.Fatal("usage: go_client SOCKET")
	}
	if err := swap(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func swap(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	// The credentials are what carries descriptors; nil: no security beside them.
	dial := func(ctx context.Context, path string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	conn, err := grpc.DialContext(ctx, socket, grpc.WithContextDialer(dial), grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(inband.WrapTransport(nil)))
	if err != nil {
		return err
	}
	defer conn.Close()

	fd, err := unix.MemfdCreate("note", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	note := os.NewFile(uintptr(fd), "note")
	defer note.Close()
	fmt.Fprint(note, "a note from a Go client")

	call := inband.NewCall() // The descriptors of one call.
	defer call.Close()
	url, err := call.Send(int(note.Fd()))
	if err != nil {
		return err
	}
	reply, err := pb.NewNotesClient(conn).Swap(ctx, &pb.SwapRequest{NoteUrl: url}, grpc.PerRPCCredentials(call))
	if err != nil {
		return err
	}
	// The server wrote to the same file.
	if _, err := note.Seek(0, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(note)
	if err != nil {
		return err
	}
	fmt.Printf("Go client -> server  %-22s the file says: %s\n", url, text)

	pipe, err := call.Recv(ctx, reply.PipeUrl)
	if err != nil {
		return err
	}
	defer pipe.Close()
	// A read, not all of it: on this wire another end of the pipe may be open until the connection closes.
	buffer := make([]byte, 100)
	n, err := pipe.Read(buffer)
	if err != nil {
		return err
	}
	fmt.Printf("server -> Go client  %-22s the pipe says: %s\n", reply.PipeUrl, buffer[:n])
	return nil
}
