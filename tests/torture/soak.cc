// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/torture/soak.h"

#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "fdchannel/fds/core_access.h"
#include "fdchannel/wire/frame.h"
#include "tests/fdchannel/server/server_test_util.h"

namespace grpcfd {
namespace torture {
namespace {

using internal::ClientCall;
using internal::ServerCall;

int64_t ResidentSet() {
  malloc_trim(0);
  FILE* const file = fopen("/proc/self/statm", "re");
  long size = 0, resident = 0;
  if (file != nullptr) {
    if (fscanf(file, "%ld %ld", &size, &resident) != 2) resident = 0;
    fclose(file);
  }
  return static_cast<int64_t>(resident) * sysconf(_SC_PAGESIZE);
}

// A client: a channel that may be replaced at any time.
class Client {
 public:
  explicit Client(const std::string& target) : target_(target) { Renew(); }
  std::shared_ptr<FdChannel> channel() {
    internal::MutexLock lock(&mutex_);
    return channel_;
  }
  void Renew() {
    auto channel = FdChannel::Create(target_);
    EXPECT_TRUE(channel.ok()) << channel.status();
    std::shared_ptr<FdChannel> old;  // Outlives the lock.
    internal::MutexLock lock(&mutex_);
    old = std::exchange(channel_, channel.ok() ? *channel : nullptr);
  }

 private:
  const std::string target_;
  internal::Mutex mutex_;
  std::shared_ptr<FdChannel> channel_ ABSL_GUARDED_BY(mutex_);
};

class Soaker {
 public:
  explicit Soaker(const SoakOptions& options)
      : options_(options), server_(dir_.File("s"), Limits()) {
    server_.Start();
    for (int i = 0; i < options.clients; ++i) {
      clients_.push_back(std::make_unique<Client>("unix:" + dir_.File("s")));
    }
    for (int i = 0; i < 256; ++i) files_.push_back(internal::MakeFile(absl::StrCat("file ", i)));
  }

  SoakResult Run() {
    std::vector<std::thread> threads;
    for (int t = 0; t < options_.threads; ++t) {
      threads.emplace_back([this, t] { Work(static_cast<unsigned>(t + 26)); });
    }
    // The first fifth fills caches, arenas and tables.
    while (descriptors_ < options_.descriptors / 5 && !Failed())
      absl::SleepFor(absl::Milliseconds(5));
    const int64_t before = ResidentSet();
    for (std::thread& thread : threads) thread.join();
    SoakResult result;
    result.rss_drift = ResidentSet() - before;
    clients_.clear();
    EXPECT_TRUE(internal::Eventually([this] {
      return server_.core().session_count() == 0 && server_.core().ledger()->held_total() == 0;
    }));
    result.descriptors = descriptors_;
    result.calls = calls_;
    result.faults = faults_;
    result.swaps = swaps_;
    return result;
  }

 private:
  static bool Failed() { return ::testing::UnitTest::GetInstance()->Failed(); }
  static ServerLimits Limits() {
    ServerLimits limits;
    limits.session.session_window = 256;
    limits.max_fds_per_uid = 1u << 20;  // Half of the total, then.
    limits.early_timeout = absl::Milliseconds(200);
    return limits;
  }

  // A session that is renewed under a call's feet is the one reason to fail.
  bool Accept(const absl::Status& status) {
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    return false;
  }

  void Work(unsigned seed) {
    std::mt19937 random(seed);
    while (descriptors_ < options_.descriptors && !Failed()) {
      Client& client = *clients_[random() % clients_.size()];
      switch (random() % 64) {
        case 0:
          client.Renew();
          ++faults_;
          break;
        case 1:
          Hostile(&random);
          break;
        case 2:
          Abandoned(&client, &random);
          break;
        default:
          Call(&client, &random);
          break;
      }
    }
  }

  std::shared_ptr<ClientCall> Start(const std::shared_ptr<FdChannel>& channel, std::mt19937* random,
                                    std::vector<size_t>* files, std::vector<InodeUrl>* urls) {
    auto call = std::make_shared<ClientCall>();
    const size_t count = (*random)() % 4 == 0 ? (*random)() % 17 : 1 + (*random)() % 3;
    for (size_t i = 0; i < count; ++i) {
      files->push_back((*random)() % files_.size());
      auto url = call->SendFd(BorrowedFd(files_[files->back()]));
      EXPECT_TRUE(url.ok()) << url.status();
      if (!url.ok()) return nullptr;
      urls->push_back(*url);
    }
    const absl::Status started = internal::StartCall(*internal::CoreOf(*channel), call);
    if (started.ok()) return call;
    Accept(started);
    return nullptr;
  }

  void Call(Client* client, std::mt19937* random) {
    const std::shared_ptr<FdChannel> channel = client->channel();
    std::vector<size_t> files;
    std::vector<InodeUrl> urls;
    const std::shared_ptr<ClientCall> call = Start(channel, random, &files, &urls);
    if (call == nullptr) return;
    const internal::CallMetadata metadata = call->metadata();
    auto session = server_.core().FindSession(metadata.token, metadata.session_id);
    if (!session.ok()) {
      Accept(session.status());
      return;
    }
    ServerCall::Config config;
    config.key = metadata.key();
    config.announced = metadata.count;
    config.deadline = absl::Now() + internal::kPatience;
    ServerCall served(*std::move(session), config);
    const unsigned kind = (*random)() % 16;
    // The handler takes all, or leaves some, or is cancelled, or asks twice.
    for (size_t i = 0; i < urls.size(); ++i) {
      if (kind == 0 && i % 2 == 1) {
        ++faults_;
        continue;
      }
      if (kind == 1 && i == urls.size() / 2) {
        served.Cancel();
        ++faults_;
        break;
      }
      auto fd = served.RecvFd(urls[i], absl::InfiniteFuture());
      if (!fd.ok()) {
        Accept(fd.status());
        return;
      }
      Compare(*fd, files[i]);
      if (kind == 2) {
        EXPECT_EQ(absl::StatusCode::kFailedPrecondition,
                  served.RecvFd(urls[i], absl::InfiniteFuture()).status().code());
        ++faults_;
      }
    }
    // And back.
    std::vector<size_t> back(kind == 1 ? 0 : (*random)() % 4);
    std::vector<InodeUrl> back_urls;
    for (size_t& file : back) {
      file = (*random)() % files_.size();
      auto url = served.SendFd(BorrowedFd(files_[file]));
      if (!url.ok()) {
        Accept(url.status());
        return;
      }
      back_urls.push_back(*url);
    }
    if (kind == 3) served.End();
    for (size_t i = 0; i < back.size(); ++i) {
      if (kind == 4) break;  // The client does not want them.
      auto fd = call->RecvFd(back_urls[i], absl::InfiniteFuture());
      if (!fd.ok()) {
        Accept(fd.status());
        return;
      }
      Compare(*fd, back[i]);
    }
    if (kind == 5) {  // Nobody sent this one.
      EXPECT_FALSE(call->RecvFd(InodeUrl(DevIno{1, 2}, 40), absl::Now()).ok());
      ++faults_;
    }
    ++calls_;
  }

  void Compare(const UniqueFd& fd, size_t file) {
    if (internal::Content(fd) != absl::StrCat("file ", file)) ++swaps_;
    ++descriptors_;
  }

  // Descriptors whose call is never made.
  void Abandoned(Client* client, std::mt19937* random) {
    std::vector<size_t> files;
    std::vector<InodeUrl> urls;
    Start(client->channel(), random, &files, &urls);
    ++faults_;
  }

  // A client that lies, and one that goes without a word.
  void Hostile(std::mt19937* random) {
    internal::Answer answer =
        internal::SayHello(server_.address(), internal::HelloWith(internal::MintToken()));
    if (answer.status() != internal::HelloStatus::kOk || answer.fds.size() != 1) return;
    internal::Frame frame;
    frame.call.id = 1 + (*random)() % 3;
    frame.fd_count = static_cast<uint16_t>(1 + (*random)() % 3);
    internal::FrameBuffer bytes;
    internal::EncodeFrame(frame, &bytes);
    if ((*random)() % 2 == 0) bytes[(*random)() % bytes.size()] = static_cast<char>((*random)());
    const int number = files_[0].get();
    internal::SendMessage(answer.fds[0], bytes, absl::MakeConstSpan(&number, 1));
    ++faults_;
  }

  const SoakOptions options_;
  internal::TempDir dir_;
  internal::TestServer server_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<UniqueFd> files_;
  std::atomic<uint64_t> descriptors_{0}, calls_{0}, faults_{0}, swaps_{0};
};

}  // namespace

SoakResult Soak(const SoakOptions& options) { return Soaker(options).Run(); }

}  // namespace torture
}  // namespace grpcfd
