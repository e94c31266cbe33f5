// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The targets with a socket: a session, and a listener with its server.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "fdchannel/calls/server_call.h"
#include "fdchannel/os/bind.h"
#include "fdchannel/os/cmsg.h"
#include "fdchannel/os/reaper.h"
#include "fdchannel/os/socket_address.h"
#include "fdchannel/server/listener.h"
#include "fdchannel/server/server_core.h"
#include "fdchannel/session/frame_socket.h"
#include "fdchannel/session/session.h"
#include "fdchannel/wire/hello.h"
#include "fuzz/targets.h"

namespace grpcfd {
namespace fuzz {
namespace {

using internal::Session;

const UniqueFd& AnyFd() {
  static const UniqueFd* const fd = new UniqueFd(::eventfd(0, EFD_CLOEXEC));
  return *fd;
}

void Send(BorrowedFd socket, const std::string& bytes, size_t fds) {
  if (bytes.empty()) return;
  const std::vector<int> numbers(fds, AnyFd().get());
  internal::SendMessage(socket, bytes, numbers);
}

internal::Hello HelloWithNewToken() {
  internal::Hello hello;
  auto token = internal::Token::Mint();
  Require(token.ok());
  hello.token = *token;
  hello.limits.max_fds_per_call = 16;
  hello.limits.window = 64;
  return hello;
}

// A server for the life of the process.
struct LiveServer {
  LiveServer() {
    char name[] = "/tmp/grpcfd_fuzz.XXXXXX";
    Require(::mkdtemp(name) != nullptr);
    dir = name;
    FdServerOptions options;
    options.limits.early_timeout = absl::Milliseconds(200);
    auto created = internal::ServerCore::Create(options);
    Require(created.ok());
    core = *std::move(created);
    auto parsed = internal::SocketAddress::Parse("unix:" + dir + "/s");
    Require(parsed.ok());
    address = std::make_unique<internal::SocketAddress>(*std::move(parsed));
    auto bound = internal::BoundSocket::Bind(*address, {});
    Require(bound.ok());
    auto made = internal::Listener::Create(
        core, *std::move(bound), {}, [](UniqueFd, const std::string& bytes, internal::FdVector) {
          // What is handed on is no hello.
          Require(internal::ClassifyFirstBytes(bytes) == internal::FirstBytes::kOther);
        });
    Require(made.ok());
    listener = *std::move(made);
    Require(listener->Start().ok());
  }
  ~LiveServer() {
    listener->Stop();
    core->ShutDown();
    listener.reset();
    ::rmdir(dir.c_str());
  }

  UniqueFd Connect() const {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    Require(fd.valid());
    sockaddr_un sockaddr;
    const socklen_t length = address->ToSockaddr(&sockaddr);
    int result;
    do {  // libFuzzer's clock interrupts.
      result = ::connect(fd.get(), reinterpret_cast<const struct sockaddr*>(&sockaddr), length);
    } while (result != 0 && errno == EINTR);
    Require(result == 0);
    return fd;
  }

  // The client's end of a new session.
  UniqueFd Open() const {
    const UniqueFd connection = Connect();
    std::array<char, internal::kHelloSize> hello;
    internal::EncodeHello(HelloWithNewToken(), &hello);
    Require(internal::SendMessage(connection, hello, {}).ok());
    pollfd polled = {connection.get(), POLLIN, 0};
    int ready;
    do {
      ready = ::poll(&polled, 1, 30'000);
    } while (ready < 0 && errno == EINTR);
    Require(ready == 1);
    std::array<char, internal::kHelloReplySize> bytes;
    internal::ReceivedMessage message;
    Require(internal::ReceiveMessage(connection, bytes.data(), bytes.size(), &message).ok());
    auto reply = internal::DecodeHelloReply(bytes);
    Require(reply.ok());
    // Sessions of earlier inputs may still be there, in which case this one is refused.
    if (reply->status != internal::HelloStatus::kOk) return UniqueFd();
    Require(message.fds.size() == 1);
    return std::move(message.fds[0]);
  }

  std::string dir;
  std::shared_ptr<internal::ServerCore> core;
  std::unique_ptr<internal::SocketAddress> address;
  std::shared_ptr<internal::Listener> listener;
};

}  // namespace

// Each message: a byte for how many descriptors, a byte for what kind, and bytes for the rest.
void FuzzSession(const uint8_t* data, size_t size) {
  auto sockets = internal::MakeSessionSockets();
  Require(sockets.ok());
  const UniqueFd peer = std::move(sockets->second);
  Input input(data, size);
  Session::Config config;
  config.role = (input.Byte() & 1) != 0 ? Session::Role::kClient : Session::Role::kServer;
  config.id = 1;
  config.local = {16, 64};
  config.remote = {16, 64};
  config.peer = "the fuzzer";
  config.reaper = std::make_shared<internal::Reaper>();
  auto session = Session::Create(
      std::make_unique<internal::SeqpacketSocket>(std::move(sockets->first)), config, nullptr);
  // A call that is being served, and one that is yet to come.
  internal::DescriptorInbox inbox(internal::CallKey{1, 0});
  session->Attach(&inbox, 2, /*open_ended=*/false);
  const auto ignore = [](absl::StatusOr<UniqueFd>) {};
  for (int messages = 0; !input.empty() && messages < 32; ++messages) {
    const uint8_t fds = input.Byte();
    const uint8_t kind = input.Byte();
    internal::FrameBuffer buffer{};
    std::string bytes;
    if (kind % 4 == 0) {
      bytes = input.Bytes(1 + input.Byte() % 80);
    } else {
      // A frame whose fields are small enough to mean something.
      internal::Frame frame;
      frame.type = static_cast<internal::FrameType>(1 + kind % 5);
      frame.call.id = input.Byte() % 4;
      frame.call.attempt = input.Byte() % 2;
      frame.first_index = input.Byte() % 4;
      frame.fd_count = static_cast<uint16_t>(1 + input.Byte() % 4);
      frame.credit_total = input.Byte();
      frame.discard_count = 1 + input.Byte() % 5;
      for (uint64_t& id : frame.discard) id = 1 + input.Byte() % 3;
      if (frame.type == internal::FrameType::kWithdraw) {
        frame.withdraw_count = 1 + input.Byte() % 3;
        for (uint32_t& index : frame.withdraw) index = input.Byte() % 4;
      }
      internal::EncodeFrame(frame, &buffer);
      bytes.assign(buffer.begin(), buffer.end());
    }
    Send(peer, bytes, kind % 16 == 15 ? fds : fds % 5);
    const uint8_t action = input.Byte();
    if (action % 4 == 0) session->Sweep();
    if (action % 4 == 1) {
      session->ReceiveAsync(&inbox, InodeUrl(DevIno{}, action % 3), Session::Op::kTake, absl::Now(),
                            ignore);
    }
    const int number = AnyFd().get();
    absl::Status sent;
    if (action % 4 == 2) {
      (void)session->TrySend({1, 0}, action, absl::MakeConstSpan(&number, 1), &sent);
    }
    Require(session->held() <= 64);
  }
  session->Sweep();
  Require(session->held() <= 64);
  session->End(&inbox, /*sent=*/true);
  session->Kill(internal::CloseCode::kShutdown, absl::UnavailableError("the input is at its end"));
  session.reset();
  config.reaper->Stop();
}

void FuzzListener(const uint8_t* data, size_t size) {
  static LiveServer server;  // Stopped, and its files removed, at exit.
  static int inputs = 0;
  Input input(data, size);
  const bool as_session = (input.Byte() & 1) != 0;
  {
    const UniqueFd socket = as_session ? server.Open() : server.Connect();
    if (!socket.valid()) return;
    for (int pieces = 0; !input.empty() && pieces < 16; ++pieces) {
      const size_t fds = input.Byte() % 4 == 3 ? input.Byte() : 0;
      Send(socket, input.Bytes(1 + input.Byte() % 96), fds);
    }
  }
  // It is there for the next one.
  if (++inputs % 64 != 0) return;
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  UniqueFd healthy = server.Open();
  while (!healthy.valid()) {
    Require(absl::Now() < deadline);
    ::poll(nullptr, 0, 1);
    healthy = server.Open();
  }
}

}  // namespace fuzz
}  // namespace grpcfd
