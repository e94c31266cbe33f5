// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows 27 to 31: descriptors between their arrival and their end. A peer sends what nobody takes,
// as many as a message holds, some of which block the thread that closes them.
//
// The victim is a process of its own, with the RLIMIT_NOFILE that a service usually has. It watches
// itself: whether the program can still open a file, how many descriptors there are, and whether a
// thread that serves others is held up where the kernel closes files.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "tests/fdchannel/session/lingering_socket.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

using internal::LingeringSocket;
using testing_internal::MemoryFile;

// --- The server ---

namespace {

std::string ReadFile(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[4096];
  const ssize_t size = file.valid() ? ::read(file.get(), text, sizeof(text)) : 0;
  return std::string(text, size > 0 ? static_cast<size_t>(size) : 0);
}

// A system call in which the kernel may close a descriptor that a peer chose.
bool MayClose(long call) {
  return call == SYS_close || call == SYS_recvmsg || call == SYS_recvmmsg || call == SYS_sendmsg ||
         call == SYS_shutdown || call == SYS_dup2 || call == SYS_dup3;
}

// Looks at this process's threads and descriptors every few milliseconds. Thread-safe.
class SelfWatch {
 public:
  SelfWatch() : opener_([this] { Open(); }), looker_([this] { Look(); }) {}
  ~SelfWatch() {
    stop_ = true;
    opener_.join();
    looker_.join();
  }
  SelfWatch(const SelfWatch&) = delete;
  SelfWatch& operator=(const SelfWatch&) = delete;

  // Opens that were tried, and failed; the most descriptors seen, and those of now; the longest
  // time that a thread was held up, in ms, and its name.
  std::string Report() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return absl::StrCat(opens_.load(), " ", failed_.load(), " ", most_.load(), " ", now_.load(),
                        " ", held_up_, " ", held_up_ > 0 ? name_ : "-");
  }

 private:
  struct Blocked {
    std::string switches;
    absl::Time since;
  };

  // What the program does meanwhile.
  void Open() {
    while (!stop_) {
      const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      ++opens_;
      if (!file.valid()) ++failed_;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

  void Look() {
    while (!stop_) {
      CountDescriptors();
      DIR* const dir = ::opendir("/proc/self/task");
      if (dir == nullptr) continue;
      while (const dirent* entry = ::readdir(dir)) {
        if (entry->d_name[0] != '.') LookAt(absl::StrCat("/proc/self/task/", entry->d_name));
      }
      ::closedir(dir);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  void CountDescriptors() {
    DIR* const dir = ::opendir("/proc/self/fd");
    if (dir == nullptr) return;
    int count = -3;  // ".", ".." and this one.
    while (::readdir(dir) != nullptr) ++count;
    ::closedir(dir);
    now_ = count;
    most_ = std::max(most_.load(), count);
  }

  void LookAt(const std::string& task) {
    const std::string call = ReadFile(task + "/syscall");
    const std::string status = ReadFile(task + "/status");
    if (call.empty() || call[0] == 'r' || !MayClose(std::atol(call.c_str()))) {
      blocked_.erase(task);
      return;
    }
    // One that has not run since the last look has been in this call all the time.
    const size_t at = status.find("voluntary_ctxt_switches");
    if (at == std::string::npos) return;
    Blocked& blocked = blocked_[task];
    const absl::Time now = absl::Now();
    if (blocked.switches != status.substr(at)) blocked = Blocked{status.substr(at), now};
    std::string name = ReadFile(task + "/comm");
    name.erase(name.find_last_not_of('\n') + 1);
    if (name == "grpcfd-reaper") return;
    const int ms = static_cast<int>(absl::ToInt64Milliseconds(now - blocked.since));
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ms <= held_up_) return;
    name_ = name;
    held_up_ = ms;
  }

  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> opens_{0};
  std::atomic<uint64_t> failed_{0};
  std::atomic<int> most_{0};
  std::atomic<int> now_{0};
  std::map<std::string, Blocked> blocked_;  // The looker's.
  mutable std::mutex mutex_;
  int held_up_ = 0;
  std::string name_;
  std::thread opener_;
  std::thread looker_;
};

void Print(const std::string& line) {
  printf("%s\n", line.c_str());
  fflush(stdout);
}

}  // namespace

// A server that watches itself, and reports for each line of its input.
int WatchedServer(const std::string& address, const std::string& limit, const std::string& wire) {
  rlimit nofile{};
  nofile.rlim_cur = nofile.rlim_max = std::stoul(limit);
  if (setrlimit(RLIMIT_NOFILE, &nofile) != 0) return 1;
  testing_internal::FunctionService service;
  service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                        test::ExchangeReply* reply) { return Echo(context, *request, reply); };
  auto fd_server = FdServer::Create({});
  if (!fd_server.ok()) return 1;
  ListenOptions options;
  options.mode = 0777;
  options.fd_server = *fd_server;
  if (wire == "both") options.wire = PortWire::kBoth;
  grpc::ServerBuilder builder;
  AddListeningPort(&builder, address, grpc::InsecureServerCredentials(), options);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  {
    const SelfWatch watch;
    Print("ready");
    char line[64];
    while (fgets(line, sizeof(line), stdin) != nullptr) {
      Print(absl::StrCat((*fd_server)->held_fds(), " ", watch.Report()));
    }
  }
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return 0;
}

// --- The attacker ---

namespace {

bool BecomeUser(uid_t uid) {
  return setgroups(0, nullptr) == 0 && setresgid(uid, uid, uid) == 0 &&
         setresuid(uid, uid, uid) == 0;
}

// On a thread of its own: if the victim has dropped it already, this close is the one that blocks.
void CloseElsewhere(UniqueFd fd) {
  std::thread([fd = std::move(fd)] {}).detach();
}

class Attacker {
 public:
  Attacker(std::string path, size_t sessions) : path_(std::move(path)), sessions_(sessions) {}

  // The user's lane of closes is blocked first, then filled.
  void Blocked() {
    if (blocking_.empty()) {
      blocking_.emplace_back();
      while (!Send(0, DataFrame(1, 0, 1), {blocking_.back().socket.get()})) {
      }
      blocking_.back().socket.Reset();
      internal::Frame discard;
      discard.type = internal::FrameType::kDiscard;
      discard.discard[0] = 1;
      discard.discard_count = 1;
      internal::FrameBuffer bytes;
      internal::EncodeFrame(discard, &bytes);
      Send(0, bytes, {});
    }
    Burst();
  }

  // So many that the last ones do not fit into the receiver's table, and the kernel drops them.
  void Truncated() {
    for (size_t i = 0; i < sessions_.size(); ++i) {
      for (int k = 0; k < 8; ++k) Send(i, DataFrame(++call_, 0, 253), many_);
      // What was not sent blocks nobody but this program, so it goes with its peer.
      blocking_.emplace_back();
      if (Send(i, DataFrame(++call_, 0, 1), {blocking_.back().socket.get()})) {
        CloseElsewhere(std::move(blocking_.back().socket));
      } else {
        blocking_.pop_back();
      }
      while (blocking_.size() > 64) blocking_.pop_front();
    }
  }

  void Burst() {
    for (size_t i = 0; i < sessions_.size(); ++i) {
      for (int k = 0; k < 100; ++k) {
        if (!Send(i, DataFrame(++call_, 0, 253), many_)) break;
      }
    }
  }

  // Connections that begin as a gRPC client's do, and stop.
  void Preface() {
    connections_.resize(1100);
    for (UniqueFd& connection : connections_) {
      char byte;
      if (connection.valid() && ::recv(connection.get(), &byte, 1, MSG_DONTWAIT) < 0 &&
          errno == EAGAIN) {
        continue;
      }
      connection = internal::Connect(internal::Address(path_), SOCK_NONBLOCK);
      if (connection.valid()) (void)!::send(connection.get(), "P", 1, MSG_NOSIGNAL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  // As many as a call may have, each time for another that is never made.
  void Modest() {
    const std::vector<int> few(16, file_.get());
    for (size_t i = 0; i < sessions_.size(); ++i) {
      for (int k = 0; k < 100; ++k) {
        if (!Send(i, DataFrame(++call_, 0, 16), few)) break;
      }
    }
  }

 private:
  // Opens the session if there is none. False if it was not sent: there is no room, or no session.
  bool Send(size_t i, const internal::FrameBuffer& frame, const std::vector<int>& fds) {
    RawSession& session = sessions_[i];
    if (!session.ok()) session = OpenRaw(path_);
    const int error = session.ok() ? SendRaw(session.socket, frame, fds) : EAGAIN;
    if (error == 0) return true;
    if (error == EPIPE || error == ECONNRESET) session = RawSession();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return false;
  }

  const std::string path_;
  const UniqueFd file_ = MemoryFile("limbo");
  const std::vector<int> many_ = std::vector<int>(253, file_.get());
  std::vector<RawSession> sessions_;
  std::deque<LingeringSocket> blocking_;
  std::vector<UniqueFd> connections_;
  uint64_t call_ = 1;
};

}  // namespace

// Attacks until its input ends. The user must be another than the server's.
int Attack(const std::string& uid, const std::string& kind, const std::string& path,
           const std::string& sessions) {
  if (!BecomeUser(static_cast<uid_t>(std::stoul(uid)))) return 1;
  std::atomic<bool> stop{false};
  std::thread input([&stop] {
    while (fgetc(stdin) != EOF) {
    }
    stop = true;
  });
  {
    Attacker attacker(path, std::stoul(sessions));
    const std::map<std::string, void (Attacker::*)()> kinds = {{"blocked", &Attacker::Blocked},
                                                               {"truncated", &Attacker::Truncated},
                                                               {"burst", &Attacker::Burst},
                                                               {"modest", &Attacker::Modest},
                                                               {"preface", &Attacker::Preface}};
    (attacker.*kinds.at(kind))();
    Print("ready");
    while (!stop) (attacker.*kinds.at(kind))();
  }
  input.join();
  return 0;
}

// --- The same at the other end ---

namespace {

// Answers hellos, and has each session's socket full of what nobody asked for.
class HostileServer {
 public:
  explicit HostileServer(const std::string& path)
      : listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address;
    const socklen_t length = internal::Address(path).ToSockaddr(&address);
    EXPECT_EQ(0, ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), length));
    EXPECT_EQ(0, ::chmod(path.c_str(), 0777));
    EXPECT_EQ(0, ::listen(listener_.get(), 128));
  }

  void Turn() {
    pollfd polled = {listener_.get(), POLLIN, 0};
    if (::poll(&polled, 1, 1) == 1) Accept();
    for (const UniqueFd& session : sessions_) Fill(session);
  }

 private:
  void Accept() {
    UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    std::array<char, internal::kHelloSize> bytes;
    if (!internal::WaitReadable(connection, absl::Milliseconds(100)) ||
        ::recv(connection.get(), bytes.data(), bytes.size(), 0) !=
            static_cast<ssize_t>(bytes.size())) {
      return;
    }
    auto hello = internal::DecodeHello(bytes);
    if (!hello.ok()) return;  // gRPC's.
    auto sockets = internal::MakeSessionSockets();
    ASSERT_TRUE(sockets.ok());
    internal::HelloReply reply;
    reply.version = hello->max_version;
    reply.session_id = ++id_;
    reply.limits = hello->limits;
    std::array<char, internal::kHelloReplySize> answer;
    internal::EncodeHelloReply(reply, &answer);
    SendRaw(connection, answer.data(), answer.size(), {sockets->second.get()});
    if (blocking_.empty()) {
      blocking_.emplace_back();
      SendRaw(sockets->first, DataFrame(1, 0, 1), {blocking_.back().socket.get()});
      blocking_.back().socket.Reset();
    }
    sessions_.push_back(std::move(sockets->first));
    if (sessions_.size() > 16) sessions_.pop_front();
  }

  void Fill(const UniqueFd& session) {
    for (int i = 0; i < 100; ++i) {
      if (SendRaw(session, DataFrame(++call_, 0, 253), many_) != 0) return;
    }
  }

  const UniqueFd listener_;
  const UniqueFd file_ = MemoryFile("limbo");
  const std::vector<int> many_ = std::vector<int>(253, file_.get());
  std::deque<UniqueFd> sessions_;
  std::deque<LingeringSocket> blocking_;
  uint64_t id_ = 0;
  uint64_t call_ = 1;
};

}  // namespace

// Serves until its input ends.
int ServeHostilely(const std::string& path) {
  std::atomic<bool> stop{false};
  {
    HostileServer server(path);
    Print("ready");
    std::thread input([&stop] {
      while (fgetc(stdin) != EOF) {
      }
      stop = true;
    });
    while (!stop) server.Turn();
    input.join();
  }
  return 0;
}

// A client of two servers, one of them hostile. It watches itself, and reports for each line of its
// input; what "held" is for a server is here how many calls of the honest one failed.
int WatchedClient(const std::string& hostile, const std::string& honest, const std::string& limit) {
  rlimit nofile{};
  nofile.rlim_cur = nofile.rlim_max = std::stoul(limit);
  if (setrlimit(RLIMIT_NOFILE, &nofile) != 0) return 1;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> failed{0};
  std::thread victim([&] {
    auto stub = test::TestService::NewStub(MakeChannel("unix:" + hostile));
    while (!stop) (void)CallEcho(stub.get(), 1, 0, absl::Milliseconds(50));
  });
  std::thread bystander([&] {
    auto stub = test::TestService::NewStub(MakeChannel("unix:" + honest));
    while (!stop) {
      if (!CallEcho(stub.get(), 4, 4).ok()) ++failed;
    }
  });
  {
    const SelfWatch watch;
    Print("ready");
    char line[64];
    while (fgets(line, sizeof(line), stdin) != nullptr) {
      Print(absl::StrCat(failed.load(), " ", watch.Report()));
    }
  }
  stop = true;
  victim.join();
  bystander.join();
  return 0;
}

// --- The rows ---

namespace {

constexpr uid_t kFirstUser = 65500;

// What the server says of itself.
struct Report {
  unsigned long long held = 0, opens = 0, failed = 0;
  int most = 0, now = 0, held_up = 0;
  std::string name;
};

Report Ask(Peer* server) {
  server->Say("report");
  const std::string line = server->Line();
  Report report;
  char name[64] = {};
  EXPECT_EQ(7, sscanf(line.c_str(), "%llu %llu %llu %d %d %d %63s", &report.held, &report.opens,
                      &report.failed, &report.most, &report.now, &report.held_up, name))
      << line;
  report.name = name;
  return report;
}

// Calls of a user who has done nothing wrong; every one must succeed.
void CallQuietly(test::TestService::Stub* stub, absl::Duration time, Times* times, Row* row) {
  const absl::Time end = absl::Now() + time;
  while (absl::Now() < end && !Failed()) {
    const absl::Time begin = absl::Now();
    const grpc::Status status = CallEcho(stub, 4, 4);
    times->Add(absl::Now() - begin);
    EXPECT_TRUE(status.ok()) << "a bystander's call failed: " << status.error_code() << " "
                             << status.error_message();
    if (row != nullptr) row->Done();
  }
}

struct Wave {
  std::string kind;
  int users;
  int sessions;
};

// `most` is what the process may have open in all.
void RunWaves(Row* row, const std::string& limit, const std::vector<Wave>& waves, int most) {
  if (!row->NeedsRoot("attackers of other users")) return;
  internal::TempDir dir;
  ASSERT_EQ(0, ::chmod(dir.path().c_str(), 0777));
  const std::string path = dir.File("socket");
  Peer server("watched", {"unix:" + path, limit, "fd"});
  ASSERT_EQ("ready", server.Line());
  auto stub = test::TestService::NewStub(MakeChannel("unix:" + path));
  const absl::Duration time = row->full() ? absl::Seconds(30) : absl::Seconds(2);
  Times quiet, attacked, recovered;
  CallQuietly(stub.get(), time / 2, &quiet, nullptr);
  const Report before = Ask(&server);
  for (const Wave& wave : waves) {
    SCOPED_TRACE(absl::StrCat(wave.kind, ", ", wave.users, " users, ", wave.sessions, " sessions"));
    {
      std::vector<std::unique_ptr<Peer>> attackers;
      for (int i = 0; i < wave.users; ++i) {
        attackers.push_back(std::make_unique<Peer>(
            "attack", std::vector<std::string>{absl::StrCat(kFirstUser + static_cast<uid_t>(i)),
                                               wave.kind, path, absl::StrCat(wave.sessions)}));
      }
      for (const auto& attacker : attackers) EXPECT_EQ("ready", attacker->Line());
      CallQuietly(stub.get(), time, &attacked, row);
    }
    const absl::Time end = absl::Now();
    EXPECT_TRUE(internal::Eventually([&] {
      const Report report = Ask(&server);
      return report.held == 0 && report.now <= before.now + 8;
    }));
    recovered.Add(absl::Now() - end);
    const Report report = Ask(&server);
    EXPECT_EQ(0u, report.failed) << "of " << report.opens << " open(2) of the program";
    EXPECT_LE(report.most, most) << "descriptors in the server";
    EXPECT_LE(report.held_up, 50) << "ms, " << report.name;
    if (Failed()) return;
  }
  recovered.Expect(absl::Seconds(1));
  const Report report = Ask(&server);
  row->Figure(absl::StrCat("RLIMIT_NOFILE ", limit, ": at most ", report.most, " open, 0 of ",
                           report.opens, " open(2) failed, no thread held up for more than ",
                           report.held_up, " ms; quiet calls ", quiet.ToString(), ", attacked ",
                           attacked.ToString(), "; back to normal ", recovered.ToString()));
}

// What the limits of a server with RLIMIT_NOFILE 1024 give one user, or three: held 128 and less,
// 273 being read or refused, three for each of the sessions; and the program's own.
constexpr int kMostAt1024 = 800;
constexpr int kMostAt20000 = 4000;

void RunWaves(Row* row, const std::vector<Wave>& waves) {
  RunWaves(row, "1024", waves, kMostAt1024);
  if (row->full() && !Failed() && !row->not_run()) RunWaves(row, "20000", waves, kMostAt20000);
}

}  // namespace

void Row27(Row* row) { RunWaves(row, {{"blocked", 1, 1}, {"blocked", 1, 16}, {"blocked", 3, 4}}); }

void Row28(Row* row) {
  RunWaves(row, {{"truncated", 1, 1}, {"truncated", 1, 8}, {"truncated", 3, 2}});
}

void Row29(Row* row) {
  RunWaves(row, {{"burst", 1, 1}, {"burst", 1, 64}, {"burst", 3, 8}, {"modest", 1, 8}});
}

void Row30(Row* row) { RunWaves(row, "1024", {{"preface", 1, 0}, {"preface", 3, 0}}, 900); }

void Row31(Row* row) {
  internal::TempDir dir;
  const std::string hostile = dir.File("hostile"), honest = dir.File("honest");
  Peer server("serve", {"unix:" + honest});
  ASSERT_EQ("ready", server.Line());
  Peer attacker("hostile", {hostile});
  ASSERT_EQ("ready", attacker.Line());
  Peer client("client", {hostile, honest, "1024"});
  ASSERT_EQ("ready", client.Line());
  absl::SleepFor(row->full() ? absl::Seconds(60) : absl::Seconds(4));
  const Report report = Ask(&client);
  EXPECT_EQ(0u, report.held) << "calls of the honest server failed";
  EXPECT_EQ(0u, report.failed) << "of " << report.opens << " open(2) of the program";
  EXPECT_LE(report.most, 600) << "descriptors in the client";
  EXPECT_LE(report.held_up, 50) << "ms, " << report.name;
  row->Done(report.opens);
  row->Figure(absl::StrCat("RLIMIT_NOFILE 1024: at most ", report.most, " open, 0 of ",
                           report.opens, " open(2) failed, no thread held up for more than ",
                           report.held_up, " ms"));
  // The closes that block return with their sender; until then the client could not end.
  attacker.Kill();
}

}  // namespace torture
}  // namespace grpcfd
