// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

// The Go side of the interop tests: a server or a client of tests/proto/test.proto whose descriptors travel in-band.
// tests/interop/go/README.md has the commands; the C++ side, cpp_peer.cc, has the same.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"grpcfd.test/inband"
	pb "grpcfd.test/testpb"
)

const (
	patience          = 60 * time.Second // For anything that has to come; reached only by a failure.
	messagesPerStream = 10
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("FAIL", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("usage: peer server|client|certificate --socket PATH ...; see tests/interop/go/README.md")
	}
	role := arguments[0]
	flags := flag.NewFlagSet(role, flag.ExitOnError)
	socket := flags.String("socket", "", "path of the unix socket")
	certificate := flags.String("cert", "", "PEM file: TLS with this certificate; for a client, the one to trust")
	key := flags.String("key", "", "PEM file with the server's private key")
	flags.Parse(arguments[1:])
	if role == "certificate" {
		return makeCertificate(*certificate, *key)
	}
	if *socket == "" {
		return errors.New("--socket is missing")
	}
	switch role {
	case "server":
		return serve(*socket, *certificate, *key)
	case "client":
		return beClient(*socket, *certificate)
	}
	return fmt.Errorf("unknown role %q; expected server, client or certificate", role)
}

// ---- what both roles share ----

func memoryFile(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("interop", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), content)
	if _, err := file.WriteAt([]byte(content), 0); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// contentOf reads a short file, without its offset, which is shared with the sender; and closes it.
func contentOf(file *os.File) (string, error) {
	defer file.Close()
	buffer := make([]byte, 4096)
	n, err := unix.Pread(int(file.Fd()), buffer, 0)
	if err != nil {
		return "", err
	}
	return string(buffer[:n]), nil
}

func openDescriptors() (int, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	return len(entries) - 1, err // Without the one that reads the directory.
}

// commands answers the lines of standard input, until it ends or a command fails.
func commands(answer func(words []string) (string, error)) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		text, err := answer(words)
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		fmt.Println(strings.TrimRight("OK "+text, " "))
	}
	return lines.Err()
}

func countDescriptors() (string, error) {
	n, err := openDescriptors()
	return fmt.Sprintf("fds=%d", n), err
}

// ---- server ----

type service struct {
	pb.UnimplementedTestServiceServer
}

// exchange takes what the request names, and sends as many new descriptors as it asks for.
func exchange(ctx context.Context, request *pb.ExchangeRequest) (*pb.ExchangeReply, error) {
	reply := &pb.ExchangeReply{}
	if request.Command == "plain" {
		return reply, nil
	}
	conn, err := inband.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	var contents []string
	for _, url := range request.Urls {
		inode, err := inband.ParseURL(url)
		if err != nil {
			return nil, err
		}
		file, err := conn.Recv(ctx, inode)
		if err != nil {
			return nil, err
		}
		if request.Command == "touch" {
			file.Close()
			continue
		}
		content, err := contentOf(file)
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	reply.Payload = []byte(strings.Join(contents, "\n"))
	for i := uint64(0); i < request.Number; i++ {
		file, err := memoryFile(fmt.Sprintf("%s.%d", request.Payload, i))
		if err != nil {
			return nil, err
		}
		inode, err := inband.InodeOf(int(file.Fd()))
		if err == nil {
			err = conn.Send(int(file.Fd()))
		}
		file.Close()
		if err != nil {
			return nil, err
		}
		reply.Urls = append(reply.Urls, inode.URL())
	}
	return reply, nil
}

func (*service) Exchange(ctx context.Context, request *pb.ExchangeRequest) (*pb.ExchangeReply, error) {
	return exchange(ctx, request)
}

func (*service) Chat(stream pb.TestService_ChatServer) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil // The client has sent its last.
		}
		reply, err := exchange(stream.Context(), request)
		if err != nil {
			return err
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}

func serve(socket, certificate, key string) error {
	var base credentials.TransportCredentials
	if certificate != "" {
		var err error
		if base, err = credentials.NewServerTLSFromFile(certificate, key); err != nil {
			return err
		}
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(inband.WrapTransport(base)))
	pb.RegisterTestServiceServer(server, &service{})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	fmt.Println("READY")
	err = commands(func(words []string) (string, error) {
		if words[0] == "fds" {
			return countDescriptors()
		}
		return "", errors.New("unknown command")
	})
	server.Stop()
	if serveErr := <-ended; err == nil {
		err = serveErr
	}
	return err
}

// ---- client ----

type client struct {
	socket, certificate string
	conn                *grpc.ClientConn
	stub                pb.TestServiceClient
	serial              int    // Makes the content of each file its own.
	lastSent            string // URL and content of a descriptor that was sent earlier.
	lastContent         string
}

func beClient(socket, certificate string) error {
	c := &client{socket: socket, certificate: certificate}
	fmt.Println("READY")
	err := commands(c.answer)
	if c.conn != nil {
		c.conn.Close()
	}
	return err
}

func (c *client) connect() error {
	var base credentials.TransportCredentials
	if c.certificate != "" {
		pem, err := os.ReadFile(c.certificate)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s holds no certificate", c.certificate)
		}
		base = credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "localhost"})
	}
	dial := func(ctx context.Context, path string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := grpc.DialContext(ctx, c.socket, grpc.WithContextDialer(dial), grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(inband.WrapTransport(base)), grpc.WithBlock())
	if err != nil {
		return err
	}
	c.conn, c.stub = conn, pb.NewTestServiceClient(conn)
	return nil
}

func (c *client) answer(words []string) (string, error) {
	options := map[string]string{}
	for _, word := range words[1:] {
		if name, value, ok := strings.Cut(word, "="); ok {
			options[name] = value
		}
	}
	number := func(name string) int {
		n, _ := strconv.Atoi(options[name])
		return n
	}
	if connects := words[0] == "connect"; connects != (c.conn == nil) && words[0] != "fds" {
		return "", errors.New("connect comes first, and once until close")
	}
	switch words[0] {
	case "connect":
		return "", c.connect()
	case "unary":
		return c.unary(number("calls"), number("send"), number("receive"))
	case "stream":
		return c.stream(number("calls"), number("send"), number("receive"))
	case "again":
		return c.again()
	case "bench":
		return c.bench(number("calls"), options["kind"])
	case "fds":
		return countDescriptors()
	case "close":
		conn := c.conn
		c.conn = nil
		return "", conn.Close()
	}
	return "", errors.New("unknown command")
}

// fill makes the next request: files of its own, with their URLs, and what the server must find in them.
func (c *client) fill(call *inband.Call, send, receive int) (*pb.ExchangeRequest, string, error) {
	c.serial++
	request := &pb.ExchangeRequest{Number: uint64(receive), Payload: []byte(fmt.Sprintf("server.%d", c.serial))}
	var contents []string
	for i := 0; i < send; i++ {
		content := fmt.Sprintf("client.%d.%d", c.serial, i)
		file, err := memoryFile(content)
		if err != nil {
			return nil, "", err
		}
		url, err := call.Send(int(file.Fd()))
		file.Close()
		if err != nil {
			return nil, "", err
		}
		request.Urls = append(request.Urls, url)
		contents = append(contents, content)
		c.lastSent, c.lastContent = url, content
	}
	return request, strings.Join(contents, "\n"), nil
}

// check reads what came back.
func (c *client) check(ctx context.Context, call *inband.Call, request *pb.ExchangeRequest, reply *pb.ExchangeReply, want string) error {
	if got := string(reply.Payload); got != want {
		return fmt.Errorf("the server read %q, expected %q", got, want)
	}
	if uint64(len(reply.Urls)) != request.Number {
		return fmt.Errorf("the server named %d descriptors, expected %d", len(reply.Urls), request.Number)
	}
	// In reverse: the order in which they are asked for is the asker's.
	for i := len(reply.Urls) - 1; i >= 0; i-- {
		want := fmt.Sprintf("%s.%d", request.Payload, i)
		for asker := 0; asker < 2; asker++ { // A duplicate for each.
			file, err := call.Recv(ctx, reply.Urls[i])
			if err != nil {
				return err
			}
			content, err := contentOf(file)
			if err != nil {
				return err
			}
			if content != want {
				return fmt.Errorf("%s holds %q, expected %q", reply.Urls[i], content, want)
			}
		}
	}
	return nil
}

func (c *client) unary(calls, send, receive int) (string, error) {
	for i := 0; i < calls; i++ {
		if err := c.unaryCall(send, receive); err != nil {
			return "", fmt.Errorf("call %d: %w", i, err)
		}
	}
	return fmt.Sprintf("calls=%d sent=%d received=%d", calls, calls*send, calls*receive), nil
}

func (c *client) unaryCall(send, receive int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	call := inband.NewCall()
	defer call.Close()
	request, want, err := c.fill(call, send, receive)
	if err != nil {
		return err
	}
	defer c.nudge(ctx, send)()
	reply, err := c.stub.Exchange(ctx, request, grpc.PerRPCCredentials(call))
	if err != nil {
		return err
	}
	defer c.nudge(ctx, receive)()
	return c.check(ctx, call, request, reply, want)
}

// nudge keeps bytes flowing while more descriptors are under way than leave with one Write: this wire has no other way
// to flush them. The function that it returns ends that.
func (c *client) nudge(ctx context.Context, descriptors int) func() {
	if descriptors <= inband.Burst {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			c.stub.Exchange(ctx, &pb.ExchangeRequest{Command: "plain"})
		}
	}()
	return func() { cancel(); <-ended }
}

func (c *client) stream(calls, send, receive int) (string, error) {
	for i := 0; i < calls; i += messagesPerStream {
		messages := calls - i
		if messages > messagesPerStream {
			messages = messagesPerStream
		}
		if err := c.oneStream(messages, send, receive); err != nil {
			return "", fmt.Errorf("stream from message %d: %w", i, err)
		}
	}
	return fmt.Sprintf("calls=%d sent=%d received=%d", calls, calls*send, calls*receive), nil
}

func (c *client) oneStream(messages, send, receive int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	call := inband.NewCall()
	defer call.Close()
	// The first message's descriptors are queued before the call, the others' while it runs.
	request, want, err := c.fill(call, send, receive)
	if err != nil {
		return err
	}
	defer c.nudge(ctx, send+receive)()
	stream, err := c.stub.Chat(ctx, grpc.PerRPCCredentials(call))
	if err != nil {
		return err
	}
	for i := 0; i < messages; i++ {
		if i > 0 {
			if request, want, err = c.fill(call, send, receive); err != nil {
				return err
			}
		}
		if err := stream.Send(request); err != nil {
			return err
		}
		reply, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := c.check(ctx, call, request, reply, want); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err == nil {
		return errors.New("the server sent more than was asked for")
	}
	return nil
}

// again names, in a call that sends nothing, a descriptor that an earlier call sent.
func (c *client) again() (string, error) {
	if c.lastSent == "" {
		return "", errors.New("nothing was sent before")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reply, err := c.stub.Exchange(ctx, &pb.ExchangeRequest{Urls: []string{c.lastSent}})
	if err != nil {
		return "", err
	}
	if got := string(reply.Payload); got != c.lastContent {
		return "", fmt.Errorf("the server read %q, expected %q", got, c.lastContent)
	}
	return "", nil
}

// bench times unary calls: "plain" ones, ones that carry the "same" descriptor each time, or a "fresh" one each time,
// which is made outside of the time.
func (c *client) bench(calls int, kind string) (string, error) {
	same, err := memoryFile("same")
	if err != nil {
		return "", err
	}
	defer same.Close()
	times := make([]time.Duration, 0, calls)
	for i := 0; i < calls; i++ {
		file := same
		if kind == "fresh" {
			if file, err = memoryFile("fresh"); err != nil {
				return "", err
			}
		}
		began := time.Now()
		err := c.benchCall(kind, int(file.Fd()))
		times = append(times, time.Since(began))
		if file != same {
			file.Close()
		}
		if err != nil {
			return "", err
		}
	}
	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	microseconds := func(quantile float64) float64 {
		return float64(times[int(quantile*float64(len(times)-1))]) / 1e3
	}
	return fmt.Sprintf("calls=%d p50=%.2f p90=%.2f p99=%.2f", calls, microseconds(0.5), microseconds(0.9), microseconds(0.99)), nil
}

func (c *client) benchCall(kind string, fd int) error {
	if kind == "plain" {
		_, err := c.stub.Exchange(context.Background(), &pb.ExchangeRequest{Command: "plain"})
		return err
	}
	call := inband.NewCall()
	defer call.Close()
	url, err := call.Send(fd)
	if err != nil {
		return err
	}
	_, err = c.stub.Exchange(context.Background(), &pb.ExchangeRequest{Command: "touch", Urls: []string{url}}, grpc.PerRPCCredentials(call))
	return err
}
