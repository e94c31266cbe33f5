// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/io.h>
#include <sys/socket.h>

#include "bench.capnp.h"
#include "benchmarks/peer.h"

namespace grpcfd {
namespace benchmarks {
namespace {

constexpr capnp::uint kMaxFdsPerMessage = 16;

// A capability that stands for a descriptor.
class HandleServer final : public ::Handle::Server {
 public:
  explicit HandleServer(UniqueFd fd) : fd_(std::move(fd)) {}
  kj::Maybe<int> getFd() override { return fd_.get(); }

 private:
  const UniqueFd fd_;
};

class BenchServer final : public ::Bench::Server {
 public:
  kj::Promise<void> call(CallContext context) override {
    const bool verify = context.getParams().getVerify();
    auto promises =
        kj::heapArrayBuilder<kj::Promise<kj::Maybe<int>>>(context.getParams().getHandles().size());
    for (auto handle : context.getParams().getHandles()) promises.add(handle.getFd());
    return kj::joinPromises(promises.finish())
        .then([context, verify](kj::Array<kj::Maybe<int>> fds) mutable {
          std::vector<std::string> contents;
          for (kj::Maybe<int>& fd : fds) {
            KJ_IF_MAYBE (number, fd) {
              Inspect(*number, verify ? &contents : nullptr);
            } else {
              Die("a capability came without its descriptor");
            }
          }
          auto list = context.getResults().initContents(static_cast<capnp::uint>(contents.size()));
          for (capnp::uint i = 0; i < contents.size(); ++i) list.set(i, contents[i]);
        });
  }
};

class CapnpCaller final : public Caller {
 public:
  explicit CapnpCaller(const std::string& path)
      : io_(kj::setupAsyncIo()),
        stream_(io_.lowLevelProvider->wrapUnixSocketFd(
            kj::AutoCloseFd(Connect(path, SOCK_STREAM | SOCK_NONBLOCK).Release()),
            kj::LowLevelAsyncIoProvider::ALREADY_NONBLOCK)),
        client_(*stream_, kMaxFdsPerMessage),
        bench_(client_.bootstrap().castAs<::Bench>()) {}

  // kj's destructors may throw; at the end of a benchmark that would be a bug worth a crash.
  ~CapnpCaller() noexcept override {}

  void Call(std::vector<UniqueFd> fds) override { Send(std::move(fds), false); }

  std::vector<std::string> CallAndVerify(std::vector<UniqueFd> fds) override {
    std::vector<std::string> contents;
    auto reply = Send(std::move(fds), true);
    for (auto content : reply.getContents()) contents.emplace_back(content.cStr());
    return contents;
  }

 private:
  capnp::Response<::Bench::CallResults> Send(std::vector<UniqueFd> fds, bool verify) {
    auto request = bench_.callRequest();
    request.setVerify(verify);
    auto handles = request.initHandles(static_cast<capnp::uint>(fds.size()));
    for (capnp::uint i = 0; i < fds.size(); ++i) {
      handles.set(i, kj::heap<HandleServer>(std::move(fds[i])));
    }
    return request.send().wait(io_.waitScope);
  }

  kj::AsyncIoContext io_;
  kj::Own<kj::AsyncCapabilityStream> stream_;
  capnp::TwoPartyClient client_;
  ::Bench::Client bench_;
};

}  // namespace

std::unique_ptr<Caller> ConnectCapnp(const std::string& path) {
  return std::make_unique<CapnpCaller>(path);
}

void ServeCapnp(const std::string& path) {
  const UniqueFd listener = Listen(path, SOCK_STREAM);
  for (;;) {
    std::thread([fd = Accept(listener).Release()] {
      kj::AsyncIoContext io = kj::setupAsyncIo();
      kj::Own<kj::AsyncCapabilityStream> stream =
          io.lowLevelProvider->wrapUnixSocketFd(kj::AutoCloseFd(fd), 0);
      capnp::TwoPartyServer server(kj::heap<BenchServer>());
      server.accept(*stream, kMaxFdsPerMessage).wait(io.waitScope);
    }).detach();
  }
}

}  // namespace benchmarks
}  // namespace grpcfd
