// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The scorecard: 32 rows of hostile peers, faults and exhaustion, each with its exact outcome and
// its number of repetitions (docs/reliability.md). Every row is a function; the program `torture`
// runs one and prints one line about it, and tests/torture.sh draws the table.
//
// Why a program and no GoogleTest suite: a row has a count, which says how much it was tried, and a
// figure, which says how well it went. Both belong into a table, and the long form of a row can be
// started by itself. GoogleTest's expectations are used outside of tests: one that fails makes the
// row fail.
//
// The oracle is the same for every row: /proc/self/fd, with what readlink(2) says, is the same
// before and after; a child that is executed sees no descriptor but those it is to see; the
// status is exactly the expected one; and whoever did nothing wrong (Bystander) noticed
// nothing.
#ifndef GRPCFD_TESTS_TORTURE_TORTURE_H_
#define GRPCFD_TESTS_TORTURE_TORTURE_H_

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "grpcfd/unique_fd.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace torture {

// What a row is asked to do, and what it has to say. Thread-safe but for Figure().
class Row {
 public:
  Row(bool full, uint64_t count) : full_(full), count_(count) {}

  // Whether this is the long form, as for a release.
  bool full() const { return full_; }
  // How often to repeat: `full_count` in the long form, a hundredth of it in the short one (but at
  // least `at_least`: every distinct case), or what the command line says.
  uint64_t Count(uint64_t full_count, uint64_t at_least = 1) const;

  // Counts repetitions that were done.
  void Done(uint64_t n = 1) { done_ += n; }
  uint64_t done() const { return done_; }

  // What was measured, for the table. Several are joined.
  void Figure(const std::string& text);
  const std::string& figure() const { return figure_; }

  // Says that the row, or a part of it, needs root, and is not run without.
  bool NeedsRoot(const char* part);
  bool not_run() const { return not_run_; }
  void NotRun(const std::string& why);

 private:
  const bool full_;
  const uint64_t count_;
  std::atomic<uint64_t> done_{0};
  bool not_run_ = false;
  std::string figure_;
};

// Whether an expectation has failed: loops end then.
bool Failed();

// Times of one kind, held against a limit: 99 % within, all within ten times, for the machines are
// shared. Thread-safe.
class Times {
 public:
  void Add(absl::Duration time);
  // Fails the row if they are not within `limit`.
  void Expect(absl::Duration limit) const;
  // "p50 .. p99 .. max ..".
  std::string ToString() const;

 private:
  std::vector<absl::Duration> Sorted() const;

  mutable std::mutex mutex_;
  std::vector<absl::Duration> times_;
};

// A process that runs a peer of this program (peers.cc), with its standard streams connected to us.
// Its stdin ends with the object, which is its sign to exit; it is killed if that does not help.
class Peer {
 public:
  enum class As { kSelf, kNobody };
  Peer(const std::string& name, std::vector<std::string> arguments, As as = As::kSelf);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  pid_t pid() const { return pid_; }
  // A line of what it prints, without the newline; empty at the end.
  std::string Line();
  void Say(const std::string& line);
  // SIGKILL, and waits for the end.
  void Kill();

 private:
  pid_t pid_ = -1;
  bool killed_ = false;
  UniqueFd stdin_;
  FILE* stdout_ = nullptr;
};

// What `torture peer NAME ARGUMENTS...` does. The result is the exit status.
int RunPeer(const std::string& name, const std::vector<std::string>& arguments);
// That of restarts.cc.
int FloodNames(const std::string& path);
// Those of limbo.cc.
int ServeHostilely(const std::string& path);
int WatchedClient(const std::string& hostile, const std::string& honest, const std::string& limit);
int WatchedServer(const std::string& address, const std::string& limit, const std::string& wire);
int Attack(const std::string& uid, const std::string& kind, const std::string& path,
           const std::string& sessions);

// Executes a program that lists its descriptors, and fails the row if there is one that it should
// not have inherited.
void ExpectNothingInherited();

// Descriptors of this process whose target has `text` in it. "memfd:grpcfd" are those that the rows
// pass around.
int CountFds(const std::string& text);

// The handler of the rows. It takes the descriptors that the request names and answers with their
// contents, each followed by '|'; then it sends `request.number()` descriptors back, with the
// contents "back 0", "back 1", ... The command "plain" does neither.
grpc::Status Echo(grpc::ServerContext* context, const test::ExchangeRequest& request,
                  test::ExchangeReply* reply);

// A gRPC server whose handlers are Echo, and which has room for what the rows do.
std::unique_ptr<testing_internal::TestServer> MakeEchoServer(const ServerLimits& limits = {});

// One call with `count` descriptors to the server and `back` from it, all checked by content.
grpc::Status CallEcho(test::TestService::Stub* stub, int count, int back,
                      absl::Duration deadline = absl::Seconds(20));

// A channel that finds a restarted server quickly.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address,
                                           const ChannelOptions& options = {});
// A channel without grpcfd, for clients that make frames and metadata themselves.
std::shared_ptr<grpc::Channel> MakePlainChannel(const std::string& address);

// An honest client: calls with descriptors both ways, one after another, on a
// session and a connection of its own. Every one of them must succeed.
class Bystander {
 public:
  explicit Bystander(const std::string& address);
  // Ends and reports.
  ~Bystander() { Stop(); }
  void Stop();
  uint64_t calls() const { return calls_; }
  // Waits until one more call has been made from here on.
  void AwaitCall();

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> calls_{0};
  std::thread thread_;
};

// Processor time of the thread of this process with this name, e.g. "grpcfd-server".
absl::Duration ThreadTime(const std::string& name);

// The rows.
void Row01(Row* row);
void Row02(Row* row);
void Row03(Row* row);
void Row04(Row* row);
void Row05(Row* row);
void Row06(Row* row);
void Row07(Row* row);
void Row08(Row* row);
void Row09(Row* row);
void Row10(Row* row);
void Row11(Row* row);
void Row12(Row* row);
void Row13(Row* row);
void Row14(Row* row);
void Row15(Row* row);
void Row16(Row* row);
void Row17(Row* row);
void Row18(Row* row);
void Row19(Row* row);
void Row20(Row* row);
void Row21(Row* row);
void Row22(Row* row);
void Row23(Row* row);
void Row24(Row* row);
void Row25(Row* row);
void Row26(Row* row);
void Row27(Row* row);
void Row28(Row* row);
void Row29(Row* row);
void Row30(Row* row);
void Row31(Row* row);
void Row32(Row* row);

}  // namespace torture
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_TORTURE_TORTURE_H_
