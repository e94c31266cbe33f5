// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows 1, 2, 4 and 16: descriptors arrive, all of them, where they belong, or none does.
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fdchannel/fds/core_access.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/syscalls.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

using internal::ScopedFdRoom;
using testing_internal::Content;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;

// --- Row 1 ---

namespace {

void TryCounts(Row* row, int limit) {
  ServerLimits limits;
  limits.session.max_fds_per_call = static_cast<uint32_t>(limit);
  limits.session.session_window = static_cast<uint32_t>(std::max(64, limit));
  limits.max_fds_per_uid = 2048;
  auto server = MakeEchoServer(limits);
  std::atomic<int> handled{0};
  server->service.exchange = [&handled](grpc::ServerContext* context,
                                        const test::ExchangeRequest* request,
                                        test::ExchangeReply* reply) {
    ++handled;
    return Echo(context, *request, reply);
  };
  ChannelOptions options;
  options.fd_channel_options.limits = limits.session;
  auto stub = test::TestService::NewStub(MakeChannel(server->address(), options));
  ASSERT_TRUE(CallEcho(stub.get(), 1, 1).ok());
  Bystander bystander(server->address());
  bystander.Stop();  // Other senders would be counted below.
  for (const int count : {0, 1, 2, 15, 16, 17, 252, 253, 254, 600}) {
    // To the server.
    handled = 0;
    ResetSyscalls();
    grpc::Status status = CallEcho(stub.get(), count, 0);
    row->Done();
    if (count <= limit) {
      EXPECT_TRUE(status.ok()) << count << ": " << status.error_message();
      EXPECT_EQ(1, handled);
    } else {
      EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code()) << status.error_message();
      EXPECT_EQ(0, handled);
      EXPECT_EQ(0u, SendsWithControl()) << "something was sent before the call was refused";
    }
    // From the server, which sends one by one: the first beyond the limit is refused.
    ResetSyscalls();
    status = CallEcho(stub.get(), 0, count);
    row->Done();
    if (count <= limit) {
      EXPECT_TRUE(status.ok()) << count << ": " << status.error_message();
    } else {
      EXPECT_EQ(grpc::StatusCode::INVALID_ARGUMENT, status.error_code()) << status.error_message();
      EXPECT_EQ(static_cast<uint64_t>(limit), SendsWithControl());
    }
  }
}

}  // namespace

void Row01(Row* row) {
  // The default limit, that of one message, and one that needs several messages.
  for (const int limit : {16, 253, 600}) {
    if (!Failed()) TryCounts(row, limit);
  }
  row->Figure("limits 16, 253 and 600 a call");
}

// --- Row 2 ---

namespace {

// A room of N - 1 must fail as well as one of 0. The server's handler makes itself short of room,
// takes, and says what came of it.
grpc::Status TakeWithRoom(grpc::ServerContext* context, const test::ExchangeRequest& request,
                          test::ExchangeReply* reply) {
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  std::vector<UniqueFd> taken;
  absl::Status status;
  {
    const ScopedFdRoom room(static_cast<int>(request.number()));
    for (const std::string& url : request.urls()) {
      auto fd = fds->RecvFd(url);
      if (fd.ok()) {
        taken.push_back(*std::move(fd));
      } else {
        // All for the same reason.
        EXPECT_TRUE(status.ok() || status.code() == fd.status().code()) << fd.status();
        status = fd.status();
      }
    }
  }
  if (!status.ok()) {
    EXPECT_TRUE(taken.empty()) << "a part of the descriptors came";
  }
  for (const UniqueFd& fd : taken) reply->set_payload(reply->payload() + Content(fd) + "|");
  return ToGrpcStatus(status);
}

}  // namespace

void Row02(Row* row) {
  constexpr int kCount = 16;
  auto server = MakeEchoServer();
  // Without names the client reads its session only when it is asked to, or a while later.
  ChannelOptions unnamed;
  unnamed.name_connections = false;
  auto stub = test::TestService::NewStub(MakeChannel(server->address(), unnamed));
  const auto echo = server->service.exchange;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(CallEcho(stub.get(), kCount, kCount).ok());
  const auto rounds = row->Count(1);
  for (uint64_t round = 0; round < rounds && !Failed(); ++round) {
    for (int room = 0; room <= kCount && !Failed(); ++room) {
      // To the server. What earlier calls left is closed first, or it would be counted as room.
      EXPECT_TRUE(internal::Eventually([] { return CountFds("memfd:grpcfd") == 0; }));
      server->service.exchange =
          [](grpc::ServerContext* context, const test::ExchangeRequest* request,
             test::ExchangeReply* reply) { return TakeWithRoom(context, *request, reply); };
      {
        grpc::ClientContext context;
        SetDeadline(&context, 20);
        auto fds = FromContext(&context);
        test::ExchangeRequest request;
        std::string expected;
        for (int i = 0; i < kCount; ++i) {
          request.add_urls(fds->SendFd(MemoryFile(absl::StrCat("r", i)))->ToString());
          expected += absl::StrCat("r", i, "|");
        }
        request.set_number(static_cast<uint64_t>(room));
        test::ExchangeReply reply;
        const grpc::Status status = stub->Exchange(&context, request, &reply);
        row->Done();
        EXPECT_EQ(room < kCount ? grpc::StatusCode::RESOURCE_EXHAUSTED : grpc::StatusCode::OK,
                  status.error_code())
            << room << ": " << status.error_message();
        if (status.ok()) {
          EXPECT_EQ(expected, reply.payload());
        }
      }
      EXPECT_TRUE(internal::Eventually([] { return CountFds("memfd:grpcfd") == 0; }))
          << "left after a call with room for " << room;

      // From the server.
      server->service.exchange = echo;
      {
        grpc::ClientContext context;
        SetDeadline(&context, 20);
        auto fds = FromContext(&context);
        test::ExchangeRequest request;
        request.set_number(kCount);
        test::ExchangeReply reply;
        ASSERT_TRUE(stub->Exchange(&context, request, &reply).ok());
        int taken = 0, refused = 0;
        std::vector<UniqueFd> kept;
        {
          const ScopedFdRoom limited(room);
          for (int i = 0; i < kCount; ++i) {
            auto fd = fds->RecvFd(reply.urls(i));
            if (fd.ok()) {
              ++taken;
              kept.push_back(*std::move(fd));
            } else {
              ++refused;
              EXPECT_EQ(absl::StatusCode::kResourceExhausted, fd.status().code()) << fd.status();
            }
          }
        }
        row->Done();
        // A server sends one by one, so a client without room loses the call, and what it took
        // before that stays its own.
        EXPECT_LE(taken, room);
        if (room < kCount) {
          EXPECT_GT(refused, 0);
        }
        if (room == kCount) {
          EXPECT_EQ(kCount, taken);
        }
        for (size_t i = 0; i < kept.size(); ++i) {
          EXPECT_EQ(absl::StrCat("back ", i), Content(kept[i]));
        }
      }
      // It works again, as there is room.
      EXPECT_TRUE(CallEcho(stub.get(), kCount, kCount).ok());
    }
  }
  row->Figure("N = 16, each room");
}

// --- Row 4 ---

namespace {

// Files whose content is their number. Calls draw from them without repetition within a sender, so
// that a descriptor of another call, or another index, has another content.
class FilePool {
 public:
  explicit FilePool(int size) {
    for (int i = 0; i < size; ++i) files_.push_back(MemoryFile(absl::StrCat("file ", i)));
  }
  int size() const { return static_cast<int>(files_.size()); }
  const UniqueFd& file(int i) const { return files_[static_cast<size_t>(i)]; }
  static int Number(const UniqueFd& fd) {
    const std::string content = Content(fd);
    return content.rfind("file ", 0) == 0 ? std::atoi(content.c_str() + 5) : -1;
  }

 private:
  std::vector<UniqueFd> files_;
};

struct SenderTotals {
  std::atomic<uint64_t> frames{0};
  std::atomic<uint64_t> calls{0};
  std::atomic<uint64_t> descriptors{0};
  std::atomic<uint64_t> swaps{0};
};

// One sender: calls with 0 to 16 descriptors each, up to four of them queued in the socket before
// the server looks at the first.
void SendMixed(internal::TestServer* server, internal::ChannelCore* channel, const FilePool& pool,
               unsigned seed, uint64_t frames, SenderTotals* totals) {
  std::mt19937 random(seed);
  std::vector<int> order(static_cast<size_t>(pool.size()));
  std::iota(order.begin(), order.end(), 0);
  size_t next = order.size();
  const auto draw = [&] {
    if (next == order.size()) {
      std::shuffle(order.begin(), order.end(), random);
      next = 0;
    }
    return order[next++];
  };
  struct Sent {
    std::shared_ptr<internal::ClientCall> call;
    std::vector<int> files;
    std::vector<InodeUrl> urls;
  };
  uint64_t sent_frames = 0;
  while (sent_frames < frames && !Failed()) {
    std::vector<Sent> queued(1 + random() % 4);
    for (Sent& sent : queued) {
      sent.call = std::make_shared<internal::ClientCall>();
      // Eight senders share a window of 640: nobody waits for room with what another waits for.
      const size_t count = random() % 8 == 0 ? random() % 17 : random() % 3;
      for (size_t i = 0; i < count; ++i) {
        sent.files.push_back(draw());
        auto url = sent.call->SendFd(BorrowedFd(pool.file(sent.files.back())));
        ASSERT_TRUE(url.ok()) << url.status();
        sent.urls.push_back(*url);
      }
      const absl::Status started = internal::StartCall(*channel, sent.call);
      ASSERT_TRUE(started.ok()) << started;
      if (count != 0) ++sent_frames;
    }
    std::shuffle(queued.begin(), queued.end(), random);
    for (Sent& sent : queued) {
      auto call = server->Serve(sent.call->metadata());
      ASSERT_NE(nullptr, call);
      std::vector<size_t> indices(sent.files.size());
      std::iota(indices.begin(), indices.end(), 0);
      std::shuffle(indices.begin(), indices.end(), random);
      for (const size_t i : indices) {
        auto fd = call->RecvFd(sent.urls[i], absl::InfiniteFuture());
        ASSERT_TRUE(fd.ok()) << fd.status();
        if (FilePool::Number(*fd) != sent.files[i]) ++totals->swaps;
        ++totals->descriptors;
      }
      ++totals->calls;
    }
  }
  totals->frames += sent_frames;
}

// Both ends agree on a session wherever the hello is cut in two, and if it comes byte by byte.
void SplitHellos(Row* row, internal::TestServer* server) {
  for (size_t split = 0; split < internal::kHelloSize && !Failed(); ++split) {
    const std::string bytes = internal::HelloBytes(internal::HelloWith(internal::MintToken()));
    const UniqueFd connection = internal::Connect(server->address());
    ASSERT_TRUE(connection.valid());
    const auto send = [&connection](const std::string& part) {
      internal::WriteAll(connection, part);
      // It is read when nothing of it is unread.
      EXPECT_TRUE(internal::Eventually([&connection] {
        int unread = -1;
        return ioctl(connection.get(), SIOCOUTQ, &unread) == 0 && unread == 0;
      }));
    };
    if (split == 0) {
      for (const char byte : bytes) send(std::string(1, byte));
    } else {
      send(bytes.substr(0, split));
      send(bytes.substr(split));
    }
    internal::Answer answer = internal::ReadAnswer(connection);
    EXPECT_EQ(internal::HelloStatus::kOk, answer.status()) << "split at " << split;
    EXPECT_EQ(1u, answer.fds.size());
    row->Done();
  }
}

}  // namespace

void Row04(Row* row) {
  internal::TempDir dir;
  ServerLimits limits;
  limits.session.session_window = 640;
  limits.max_fds_per_uid = 2048;
  internal::TestServer server(dir.File("socket"), limits);
  server.Start();
  SplitHellos(row, &server);
  constexpr int kSenders = 16;
  const uint64_t frames = row->Count(1'000'000);
  const FilePool pool(1024);
  // Eight senders share a session, so that their frames meet in one socket; the others have their
  // own.
  std::vector<std::shared_ptr<FdChannel>> channels;
  FdChannelOptions options;
  options.limits = limits.session;
  for (int i = 0; i < 1 + kSenders / 2; ++i) {
    channels.push_back(*FdChannel::Create("unix:" + dir.File("socket"), options));
  }
  SenderTotals totals;
  std::vector<std::thread> senders;
  for (int i = 0; i < kSenders; ++i) {
    internal::ChannelCore* const channel =
        internal::CoreOf(
            *channels[static_cast<size_t>(i < kSenders / 2 ? 0 : 1 + i - kSenders / 2)])
            .get();
    senders.emplace_back([&, channel, i] {
      SendMixed(&server, channel, pool, static_cast<unsigned>(i + 1), frames / kSenders, &totals);
    });
  }
  for (std::thread& sender : senders) sender.join();
  ExpectNothingInherited();
  EXPECT_EQ(0u, totals.swaps);
  row->Done(totals.frames);
  row->Figure(absl::StrCat(totals.calls.load(), " calls, ", totals.descriptors.load(),
                           " descriptors, ", totals.swaps.load(),
                           " swaps, hello split at 64 places"));
}

// --- Row 16 ---

namespace {

// Whether the other end of a pipe is gone for good: every descriptor of it is closed.
bool AllClosed(const UniqueFd& read_end) {
  pollfd polled = {read_end.get(), POLLIN, 0};
  return ::poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(internal::kPatience))) ==
             1 &&
         (polled.revents & POLLHUP) != 0;
}

}  // namespace

void Row16(Row* row) {
  auto server = MakeEchoServer();
  std::mutex mutex;
  std::vector<UniqueFd> kept;
  server->service.exchange = [&](grpc::ServerContext* context, const test::ExchangeRequest* request,
                                 test::ExchangeReply*) {
    const std::string& command = request->command();
    if (command == "ignore") return grpc::Status::OK;
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    auto fd = fds->RecvFd(request->urls(0));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    // Thrown with one taken and one not.
    if (command == "throw") throw std::runtime_error("a handler may do this");
    std::lock_guard<std::mutex> lock(mutex);
    kept.push_back(*std::move(fd));
    return grpc::Status::OK;
  };
  const uint64_t count = row->Count(10'000, 3);
  constexpr int kThreads = 4;
  std::atomic<uint64_t> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      auto stub = test::TestService::NewStub(MakeChannel(server->address()));
      for (uint64_t i = next++; i < count && !Failed(); i = next++) {
        int ends[2];
        ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
        const UniqueFd read_end(ends[0]);
        UniqueFd write_end(ends[1]);
        const auto inode = FdToUrl(write_end);
        ASSERT_TRUE(inode.ok());
        const int kind = static_cast<int>(i % 3);
        {
          grpc::ClientContext context;
          SetDeadline(&context, 20);
          auto fds = FromContext(&context);
          test::ExchangeRequest request;
          request.add_urls(fds->SendFd(BorrowedFd(write_end))->ToString());
          request.set_command(kind == 0 ? "ignore" : kind == 1 ? "throw" : "keep");
          if (kind == 1) request.add_urls(fds->SendFd(BorrowedFd(write_end))->ToString());
          write_end.Reset();
          test::ExchangeReply reply;
          const grpc::Status status = stub->Exchange(&context, request, &reply);
          EXPECT_EQ(kind == 1 ? grpc::StatusCode::UNKNOWN : grpc::StatusCode::OK,
                    status.error_code())
              << status.error_message();
        }
        if (kind == 2) {
          // Untouched: it is the pipe, it is open, and what is written arrives.
          UniqueFd mine;
          {
            std::lock_guard<std::mutex> lock(mutex);
            const auto it = std::find_if(kept.begin(), kept.end(), [&inode](const UniqueFd& fd) {
              auto url = FdToUrl(fd);
              return url.ok() && *url == *inode;
            });
            ASSERT_NE(kept.end(), it) << "a kept descriptor is gone";
            mine = std::move(*it);
            kept.erase(it);
          }
          EXPECT_EQ(1, ::write(mine.get(), "k", 1));
          char byte = 0;
          EXPECT_EQ(1, ::read(read_end.get(), &byte, 1));
          EXPECT_EQ('k', byte);
          mine.Reset();
        }
        EXPECT_TRUE(AllClosed(read_end)) << "kind " << kind;
        row->Done();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(kept.empty());
  row->Figure("each kind a third; every pipe saw its end");
}

}  // namespace torture
}  // namespace grpcfd
