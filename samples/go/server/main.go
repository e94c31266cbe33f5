// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

// A server in Go. It gets a file from the client, and hands out a pipe.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"

	"grpcfd.test/inband"
	pb "grpcfd.test/notespb"
)

type notes struct {
	pb.UnimplementedNotesServer
}

func (*notes) Swap(ctx context.Context, request *pb.SwapRequest) (*pb.SwapReply, error) {
	conn, err := inband.FromContext(ctx) // The connection's descriptors.
	if err != nil {
		return nil, err
	}
	inode, err := inband.ParseURL(request.NoteUrl)
	if err != nil {
		return nil, err
	}
	note, err := conn.Recv(ctx, inode)
	if err != nil {
		return nil, err
	}
	defer note.Close()
	if _, err := note.Seek(0, io.SeekEnd); err != nil { // The offset is shared with the client.
		return nil, err
	}
	if _, err := note.WriteString(", read by a Go server"); err != nil {
		return nil, err
	}

	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	defer writer.Close()
	if _, err := writer.WriteString("greetings from a Go server"); err != nil {
		return nil, err
	}
	if inode, err = inband.InodeOf(int(reader.Fd())); err != nil {
		return nil, err
	}
	if err := conn.Send(int(reader.Fd())); err != nil { // A duplicate leaves with the reply.
		return nil, err
	}
	return &pb.SwapReply{PipeUrl: inode.URL()}, nil
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("Go server: ")
	if len(os.Args) != 2 {
		log.Fatal("usage: go_server SOCKET")
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(inband.WrapTransport(nil)))
	pb.RegisterNotesServer(server, &notes{})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop
		server.GracefulStop()
	}()
	fmt.Println("Go server listens")
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
