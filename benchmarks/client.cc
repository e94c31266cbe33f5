// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The measuring process of the benchmark. Starts the serving process, measures, prints a table, and
// writes the figures as one flat JSON object. benchmarks/run.sh builds and runs both.
//
// It ends with a non-zero status if a figure is missing or not finite, if a descriptor arrived with
// other content than it was sent with, or if one was left open.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "bench.grpc.pb.h"
#include "benchmarks/measure.h"
#include "benchmarks/peer.h"
#include "fdchannel/os/token.h"
#include "fdchannel/wire/hello.h"
#include "grpcfd/grpcfd.h"

extern char** environ;

namespace grpcfd {
namespace benchmarks {
namespace {

size_t OpenFds() {
  size_t count = 0;
  DIR* const folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) Die("open /proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

UniqueFd MakeFile(const std::string& content) {
  UniqueFd fd(::memfd_create("bench", MFD_CLOEXEC));
  if (!fd.valid() || ::pwrite(fd.get(), content.data(), content.size(), 0) !=
                         static_cast<ssize_t>(content.size())) {
    Die("make a file");
  }
  return fd;
}

UniqueFd Duplicate(const UniqueFd& fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!copy.valid()) Die("duplicate a descriptor");
  return copy;
}

// --- The serving process ---

class ServingProcess {
 public:
  ServingProcess(const std::string& program, const std::string& folder,
                 std::vector<std::string> options = {}) {
    int in[2];
    int out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) Die("pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    options.insert(options.begin(), {program, "--dir", folder});
    std::vector<char*> argv;
    for (std::string& option : options) argv.push_back(option.data());
    argv.push_back(nullptr);
    errno = ::posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ);
    if (errno != 0) Die("start " + program);
    posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
    stdin_.Reset(in[1]);
    const UniqueFd ready(out[0]);
    char text[8];
    if (::read(ready.get(), text, sizeof(text)) <= 0) Die("the serving process did not start");
  }
  ~ServingProcess() {
    stdin_.Reset();
    ::waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
  UniqueFd stdin_;
};

// Keeps this process, its threads to come and its children on one processor.
class PinnedToOneCore {
 public:
  PinnedToOneCore() {
    if (::sched_getaffinity(0, sizeof(before_), &before_) != 0) Die("sched_getaffinity");
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0; --cpu) {
      if (!CPU_ISSET(cpu, &before_)) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      if (::sched_setaffinity(0, sizeof(one), &one) != 0) Die("sched_setaffinity");
      break;
    }
  }
  ~PinnedToOneCore() { ::sched_setaffinity(0, sizeof(before_), &before_); }

 private:
  cpu_set_t before_;
};

// --- Calls by gRPC ---

struct GrpcCallOptions {
  bool urls_in_metadata = false;
  bool per_attempt = false;    // Sent again for each attempt that gRPC makes of a call.
  bool borrow = false;         // Duplicates are sent; the caller keeps its descriptors.
  bool reply_with_fd = false;  // One comes back, and is looked at and closed.
  // Parts of what a call with descriptors does: it is bound to its session; it has a metadata entry
  // of the size of grpcfd's.
  bool bind = false;
  bool entry = false;
  // A program sends descriptors on a socket of its own, with nothing that says which call they
  // belong to; or with an entry and a URL each that could say it, credentials that could have sent
  // them, and an interceptor that could end the call: but nobody looks at any of it.
  bool by_hand = false;
  bool named = false;
  std::string by_hand_path;
  // Without gRPC's filters for compression, message sizes and the like, and without retries.
  bool lean = false;
};

grpc::ChannelArguments Arguments(bool lean) {
  grpc::ChannelArguments arguments;
  // gRPC shares connections between channels of equal arguments, and so their load.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (lean) {
    arguments.SetInt(GRPC_ARG_MINIMAL_STACK, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  }
  return arguments;
}

std::shared_ptr<grpc::Channel> GrpcfdChannel(const std::string& target,
                                             const GrpcCallOptions& call = {}) {
  ChannelOptions options;
  options.interceptor.urls_in_metadata = call.urls_in_metadata;
  options.interceptor.send_per_attempt = call.per_attempt;
  options.fd_channel_options.limits.max_fds_per_call = 253;
  options.fd_channel_options.limits.session_window = 1024;
  return CreateCustomChannel(target, grpc::InsecureChannelCredentials(), Arguments(call.lean), {},
                             options);
}

std::shared_ptr<grpc::Channel> StockChannel(const std::string& target) {
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), Arguments(false));
}

// Where a program could keep what belongs to a call.
#if GRPCFD_GRPC_SLOT_BY_PLUGIN
class IdleCredentials final : public grpc::CallCredentials {
 public:
  IdleCredentials() : grpc::CallCredentials(MakePlugin()) {}

 private:
  static grpc_call_credentials* MakePlugin() {
    grpc_metadata_credentials_plugin plugin = {};
    plugin.get_metadata = [](void*, grpc_auth_metadata_context, grpc_credentials_plugin_metadata_cb,
                             void*, grpc_metadata*, size_t* count, grpc_status_code* status,
                             const char** details) {
      *count = 0;
      *status = GRPC_STATUS_OK;
      *details = nullptr;
      return 1;
    };
    plugin.type = "idle";
    return grpc_metadata_credentials_create_from_plugin(plugin, GRPC_SECURITY_NONE, nullptr);
  }
};
#else
class IdleCredentials final : public grpc::CallCredentials {
 public:
  bool ApplyToCall(grpc_call* /*call*/) override { return true; }

 private:
  grpc::SecureCallCredentials* AsSecureCredentials() override { return nullptr; }
};
#endif

class GrpcCaller final : public Caller {
 public:
  GrpcCaller(const std::shared_ptr<grpc::Channel>& channel, const GrpcCallOptions& options)
      : stub_(Bench::NewStub(channel)), options_(options) {
    if (options.by_hand) by_hand_ = Connect(options.by_hand_path, SOCK_SEQPACKET);
  }

  void Call(std::vector<UniqueFd> fds) override { Send(std::move(fds), false); }

  std::vector<std::string> CallAndVerify(std::vector<UniqueFd> fds) override {
    const Reply reply = Send(std::move(fds), true);
    return {reply.contents().begin(), reply.contents().end()};
  }

 private:
  Reply Send(std::vector<UniqueFd> fds, bool verify) {
    grpc::ClientContext context;
    Request request;
    request.set_verify(verify);
    request.set_reply_with_fd(options_.reply_with_fd);
    if (by_hand_.valid() && !fds.empty()) {
      if (options_.named) {
        context.AddMetadata(kIdleEntry, std::string(kIdleEntrySize, '\x17'));
        context.set_credentials(std::make_shared<IdleCredentials>());
        for (size_t i = 0; i < fds.size(); ++i) {
          const auto dev_ino = FdToDevIno(fds[i]);
          if (!dev_ino.ok()) Die(dev_ino.status().ToString());
          request.add_urls(InodeUrl(*dev_ino, static_cast<uint32_t>(i)).ToString());
        }
      }
      SendByHand(by_hand_, fds);
      fds.clear();
      request.set_by_hand(true);
    }
    std::shared_ptr<FdTransceiver> transceiver;
    if (!fds.empty() || options_.reply_with_fd || options_.bind) {
      transceiver = FromContext(&context);
    }
    if (options_.entry) context.AddMetadata(kIdleEntry, std::string(kIdleEntrySize, '\x17'));
    for (UniqueFd& fd : fds) {
      absl::StatusOr<InodeUrl> url =
          options_.borrow ? transceiver->SendFd(fd) : transceiver->SendFd(std::move(fd));
      if (!url.ok()) Die(url.status().ToString());
      request.add_urls(url->ToString());
    }
    Reply reply;
    const grpc::Status status = stub_->Call(&context, request, &reply);
    if (!status.ok()) Die("call: " + status.error_message());
    if (options_.reply_with_fd) {
      absl::StatusOr<UniqueFd> fd = transceiver->RecvFd(reply.url());
      if (!fd.ok()) Die(fd.status().ToString());
      Inspect(fd->get(), nullptr);
    }
    return reply;
  }

  const std::unique_ptr<Bench::Stub> stub_;
  const GrpcCallOptions options_;
  UniqueFd by_hand_;
};

// --- Variants ---

// Two callers of a kind, taken in turn by the blocks, and the descriptors that a block will send.
class Instances {
 public:
  Instances(std::unique_ptr<Caller> a, std::unique_ptr<Caller> b)
      : callers_{std::move(a), std::move(b)} {}

  // `ready` makes the blocks' descriptors: duplicates of one file, made before the clock runs.
  BlockMeasurement::Variant Variant(const std::string& name, size_t fds_in_a_call, int calls) {
    auto state = std::make_shared<State>();
    BlockMeasurement::Variant variant;
    variant.name = name;
    variant.calls = calls;
    variant.prepare = [this, state, fds_in_a_call, calls](int round) {
      state->caller = callers_[round % 2 == 0 || callers_[1] == nullptr ? 0 : 1].get();
      state->ready.clear();
      for (int i = 0; i < calls; ++i) {
        std::vector<UniqueFd> fds;
        fds.reserve(fds_in_a_call);
        for (size_t k = 0; k < fds_in_a_call; ++k) fds.push_back(Duplicate(file_));
        state->ready.push_back(std::move(fds));
      }
    };
    variant.call = [state] {
      std::vector<UniqueFd> fds = std::move(state->ready.back());
      state->ready.pop_back();
      state->caller->Call(std::move(fds));
    };
    return variant;
  }

  // Not timed: `count` different files arrive as they were sent.
  void Verify(const std::string& name, size_t count) {
    for (const auto& caller : callers_) {
      if (caller == nullptr) continue;
      std::vector<UniqueFd> fds;
      std::vector<std::string> expected;
      for (size_t i = 0; i < count; ++i) {
        expected.push_back(absl::StrCat(name, " ", i));
        fds.push_back(MakeFile(expected.back()));
      }
      if (caller->CallAndVerify(std::move(fds)) != expected) {
        errno = EBADMSG;
        Die(name + ": other descriptors arrived than were sent");
      }
    }
  }

 private:
  struct State {
    Caller* caller = nullptr;
    std::vector<std::vector<UniqueFd>> ready;
  };
  const UniqueFd file_ = MakeFile("one for all");
  std::array<std::unique_ptr<Caller>, 2> callers_;
};

using Figures = std::map<std::string, double>;

struct Setup {
  std::string folder;
  std::string Path(const std::string& name) const { return folder + "/" + name + ".sock"; }
  std::string Target(const std::string& kind, const char* instance) const {
    return absl::StrCat("unix:", folder, "/", kind, "_", instance, ".sock");
  }
};

std::unique_ptr<Instances> MakeGrpc(const Setup& setup, const std::string& kind,
                                    const GrpcCallOptions& common) {
  const auto make = [&](const char* instance) {
    const std::string target = setup.Target(kind, instance);
    GrpcCallOptions options = common;
    if (common.by_hand) {
      options.by_hand_path = setup.Path(absl::StrCat("by_hand_", kind, "_", instance));
    }
    const bool stock = kind == "stock" || kind == "idle";
    return std::make_unique<GrpcCaller>(
        stock ? StockChannel(target) : GrpcfdChannel(target, options), options);
  };
  return std::make_unique<Instances>(make("a"), make("b"));
}

// How much is measured.
enum class Extent {
  kFull,
  kQuick,
  kSmoke,  // Every line of this program runs once or twice; the figures mean nothing.
};

// What a run measures.
struct Plan {
  Extent extent = Extent::kFull;
  int rounds = 0;
  // Of the variants of MeasureCalls; empty for all. For profiling, and to look at one thing at a
  // time.
  std::set<std::string> only;
  // Tells pinned figures from others.
  std::string prefix;

  bool Has(const std::string& variant) const { return only.empty() || only.count(variant) > 0; }
};

// A block of more descriptors a call is shorter: they are all open at once.
int CallsInABlock(Extent extent, int fds) {
  if (extent == Extent::kSmoke) return 4;
  return fds > 16 ? 30 : 150;
}

// The figures of one pair of processes.
void MeasureCalls(const Setup& setup, const Plan& plan, Figures* figures) {
  std::vector<std::unique_ptr<Instances>> all;
  BlockMeasurement blocks;
  // Adds the variants "name 0", "name 1" and so on, of these numbers of descriptors in a call,
  // after a look at whether descriptors arrive as they were sent.
  const auto add = [&](const std::string& name, const std::vector<int>& counts,
                       const std::function<std::unique_ptr<Instances>()>& make) {
    Instances* instances = nullptr;
    for (const int count : counts) {
      const std::string variant = absl::StrCat(name, " ", count);
      if (!plan.Has(variant)) continue;
      if (instances == nullptr) {
        all.push_back(make());
        instances = all.back().get();
        const int most = *std::max_element(counts.begin(), counts.end());
        if (most > 0) instances->Verify(name, static_cast<size_t>(most));
      }
      blocks.Add(instances->Variant(variant, static_cast<size_t>(count),
                                    CallsInABlock(plan.extent, count)));
    }
  };
  const auto add_grpc = [&](const std::string& name, const std::vector<int>& counts,
                            const std::string& server, const GrpcCallOptions& options) {
    add(name, counts, [&] { return MakeGrpc(setup, server, options); });
  };
  GrpcCallOptions with_urls;
  with_urls.urls_in_metadata = true;
  GrpcCallOptions with_attempts;
  with_attempts.per_attempt = true;
  GrpcCallOptions with_reply;
  with_reply.reply_with_fd = true;
  GrpcCallOptions with_borrowed;
  with_borrowed.borrow = true;
  GrpcCallOptions with_entry;
  with_entry.entry = true;
  GrpcCallOptions with_binding;
  with_binding.bind = true;
  add_grpc("stock", {0}, "stock", {});
  add_grpc("entry", {0}, "stock", with_entry);
  add_grpc("bound", {0}, "sync", with_binding);
  GrpcCallOptions with_own_socket;
  with_own_socket.by_hand = true;
  add_grpc("by hand", {1, 16, 253}, "stock", with_own_socket);
  with_own_socket.named = true;
  add_grpc("named", {1, 16, 253}, "idle", with_own_socket);
  add_grpc("sync", {0, 1, 2, 4, 16, 64, 253}, "sync", {});
  add_grpc("urls", {1}, "sync", with_urls);
  add_grpc("attempts", {1}, "sync", with_attempts);
  add_grpc("reply", {0}, "sync", with_reply);
  add_grpc("borrowed", {1}, "sync", with_borrowed);
  GrpcCallOptions with_less;
  with_less.lean = true;
  add_grpc("lean", {0, 1}, "sync", with_less);
  add_grpc("lean async", {0, 1}, "async", with_less);
  add_grpc("callback", {0, 1}, "callback", {});
  add_grpc("async", {0, 1}, "async", {});
  add("raw", {0, 1, 16, 64, 253}, [&] {
    return std::make_unique<Instances>(ConnectRaw(setup.Path("raw")),
                                       ConnectRaw(setup.Path("raw")));
  });
  add("sdbus", {0, 1, 16}, [&] {
    return std::make_unique<Instances>(ConnectSdBus(setup.Path("sdbus")),
                                       ConnectSdBus(setup.Path("sdbus")));
  });
  // One: it has the thread's only event loop.
  add("capnp", {0, 1, 16},
      [&] { return std::make_unique<Instances>(ConnectCapnp(setup.Path("capnp")), nullptr); });
  blocks.Run(plan.rounds);

  const auto whole = [&](const std::string& name, const std::string& variant) {
    if (plan.Has(variant)) (*figures)[plan.prefix + name] = blocks.Micros(variant);
  };
  const auto extra = [&](const std::string& name, const std::string& variant,
                         const std::string& base) {
    if (!plan.Has(variant) || !plan.Has(base)) return;
    (*figures)[plan.prefix + name] = blocks.Extra(variant, base);
  };
  whole("plain_us", "stock 0");
  whole("intercepted_us", "sync 0");
  if (plan.Has("stock 0") && plan.Has("sync 0")) {
    (*figures)[plan.prefix + "intercepted_ratio"] = blocks.Ratio("sync 0", "stock 0");
  }
  for (const int count : {1, 2, 4, 16, 64, 253}) {
    extra(absl::StrCat("extra_", count, "fd_us"), absl::StrCat("sync ", count), "sync 0");
  }
  for (const int count : {1, 16, 253}) {
    extra(absl::StrCat("by_hand_extra_", count, "fd_us"), absl::StrCat("by hand ", count),
          "stock 0");
    extra(absl::StrCat("named_extra_", count, "fd_us"), absl::StrCat("named ", count), "stock 0");
  }
  extra("part_metadata_entry_us", "entry 0", "stock 0");
  extra("part_bound_us", "bound 0", "sync 0");
  extra("url_metadata_us", "urls 1", "sync 0");
  extra("per_attempt_us", "attempts 1", "sync 1");
  extra("reply_extra_1fd_us", "reply 0", "sync 0");
  extra("borrowed_extra_1fd_us", "borrowed 1", "sync 0");
  whole("default_1fd_us", "sync 1");
  whole("lean_plain_us", "lean 0");
  whole("lean_1fd_us", "lean 1");
  whole("lean_async_plain_us", "lean async 0");
  whole("lean_async_1fd_us", "lean async 1");
  for (const char* server : {"callback", "async"}) {
    whole(absl::StrCat(server, "_plain_us"), absl::StrCat(server, " 0"));
    whole(absl::StrCat(server, "_1fd_us"), absl::StrCat(server, " 1"));
    extra(absl::StrCat(server, "_extra_1fd_us"), absl::StrCat(server, " 1"),
          absl::StrCat(server, " 0"));
  }
  for (const char* peer : {"raw", "sdbus", "capnp"}) {
    const std::string base = absl::StrCat(peer, " 0");
    whole(absl::StrCat(peer, "_plain_us"), base);
    for (const int count : {1, 16, 64, 253}) {
      if (count > 16 && std::string(peer) != "raw") continue;
      extra(absl::StrCat(peer, "_extra_", count, "fd_us"), absl::StrCat(peer, " ", count), base);
    }
  }
}

// --- Throughput ---

// Calls by several threads over one channel; `go_on` says, after each call, whether a thread makes
// another.
uint64_t CallInThreads(const std::shared_ptr<grpc::Channel>& channel, int threads, bool with_fd,
                       const std::function<bool()>& go_on) {
  std::atomic<uint64_t> calls{0};
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&] {
      GrpcCaller caller(channel, {});
      const UniqueFd file = MakeFile("throughput");
      uint64_t count = 0;
      do {
        std::vector<UniqueFd> fds;
        if (with_fd) fds.push_back(Duplicate(file));
        caller.Call(std::move(fds));
        ++count;
      } while (go_on());
      calls.fetch_add(count);
    });
  }
  for (std::thread& thread : running) thread.join();
  return calls.load();
}

double CallsPerSecond(const std::shared_ptr<grpc::Channel>& channel, int threads, bool with_fd,
                      double seconds) {
  const double begin = NowMicros();
  const double end = begin + seconds * 1e6;
  const uint64_t calls =
      CallInThreads(channel, threads, with_fd, [end] { return NowMicros() < end; });
  return static_cast<double>(calls) / ((NowMicros() - begin) / 1e6);
}

void MeasureThroughput(const Setup& setup, Extent extent, Figures* figures) {
  const auto channel = GrpcfdChannel(setup.Target("sync", "a"));
  int repeats = 7;
  double seconds = 0.7;
  std::vector<int> thread_counts{1, 2, 4, 8, 16};
  if (extent != Extent::kFull) {
    repeats = extent == Extent::kQuick ? 5 : 1;
    seconds = extent == Extent::kQuick ? 0.4 : 0.01;
    thread_counts = {8};
  }
  for (const int threads : thread_counts) {
    std::vector<double> plain;
    std::vector<double> with_fd;
    std::vector<double> ratios;
    CallsPerSecond(channel, threads, true, seconds / 4);
    for (int i = 0; i < repeats; ++i) {
      plain.push_back(CallsPerSecond(channel, threads, false, seconds));
      with_fd.push_back(CallsPerSecond(channel, threads, true, seconds));
      ratios.push_back(with_fd.back() / plain.back());
    }
    const std::string suffix = threads == 8 ? "" : absl::StrCat("_", threads, "threads");
    (*figures)["throughput_plain" + suffix] = Median(plain);
    (*figures)["throughput_1fd" + suffix] = Median(with_fd);
    (*figures)["throughput_ratio_1fd" + suffix] = Median(ratios);
  }
}

// --- A gigabyte ---

class Memory {
 public:
  explicit Memory(uint64_t size, bool populate = false)
      : fd_(::memfd_create("bench-memory", MFD_CLOEXEC)), size_(size) {
    if (!fd_.valid() || ::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) Die("make memory");
    data_ = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                   MAP_SHARED | (populate ? MAP_POPULATE : 0), fd_.get(), 0);
    if (data_ == MAP_FAILED) Die("map memory");
  }
  ~Memory() { ::munmap(data_, size_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* data() const { return static_cast<char*>(data_); }
  const UniqueFd& fd() const { return fd_; }

 private:
  const UniqueFd fd_;
  const uint64_t size_;
  void* data_ = nullptr;
};

uint64_t SumOf(const char* data, uint64_t size) {
  uint64_t total = 0;
  for (uint64_t at = 0; at < size; at += sizeof(uint64_t)) {
    uint64_t word;
    memcpy(&word, data + at, sizeof(word));
    total += word;
  }
  return total;
}

// Hands a descriptor over and has the other end read it; microseconds.
double HandOver(Bench::Stub* stub, const UniqueFd& fd, uint64_t size, bool read_all, bool populate,
                uint64_t expected) {
  const double begin = NowMicros();
  grpc::ClientContext context;
  MemoryRequest request;
  absl::StatusOr<InodeUrl> url = FromContext(&context)->SendFd(fd);
  if (!url.ok()) Die(url.status().ToString());
  request.set_url(url->ToString());
  request.set_size(size);
  request.set_read_all(read_all);
  request.set_populate(populate);
  Sum sum;
  const grpc::Status status = stub->ReadMemory(&context, request, &sum);
  if (!status.ok()) Die("ReadMemory: " + status.error_message());
  const double micros = NowMicros() - begin;
  if (read_all && sum.sum() != expected) Die("the memory arrived with another content");
  return micros;
}

double Upload(Bench::Stub* stub, const char* data, uint64_t size, uint64_t chunk_size,
              uint64_t expected) {
  const double begin = NowMicros();
  grpc::ClientContext context;
  Sum sum;
  auto writer = stub->Upload(&context, &sum);
  Chunk chunk;
  for (uint64_t at = 0; at < size; at += chunk_size) {
    chunk.set_data(data + at, std::min(chunk_size, size - at));
    if (!writer->Write(chunk)) break;
  }
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  if (!status.ok()) Die("Upload: " + status.error_message());
  const double micros = NowMicros() - begin;
  if (sum.sum() != expected) Die("the stream arrived with another content");
  return micros;
}

struct StreamChoice {
  uint64_t chunk_size;
  bool large_windows;
  bool operator<(const StreamChoice& other) const {
    return std::tie(chunk_size, large_windows) < std::tie(other.chunk_size, other.large_windows);
  }
};

std::shared_ptr<grpc::Channel> StreamChannel(const Setup& setup, bool large_windows) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxSendMessageSize(-1);
  if (large_windows) {
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 16777215);
    arguments.SetInt(GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE, 1 << 24);
    arguments.SetInt(GRPC_ARG_TCP_READ_CHUNK_SIZE, 1 << 20);
  }
  return grpc::CreateCustomChannel(setup.Target("stock", "a"), grpc::InsecureChannelCredentials(),
                                   arguments);
}

void MeasureMemory(const Setup& setup, Extent extent, Figures* figures,
                   std::map<std::string, std::string>* notes) {
  const auto channel = GrpcfdChannel(setup.Target("sync", "a"));
  const auto stub = Bench::NewStub(channel);
  const int repeats = extent == Extent::kFull ? 7 : extent == Extent::kQuick ? 3 : 1;
  constexpr uint64_t kGibibyte = 1ull << 30;
  std::vector<uint64_t> sizes{kGibibyte};
  if (extent == Extent::kFull) {
    sizes = {1ull << 12, 1ull << 16, 1ull << 20, 1ull << 24, 1ull << 27, kGibibyte};
  }
  for (const uint64_t named_size : sizes) {
    const bool gigabyte = named_size == kGibibyte;
    const uint64_t size = extent == Extent::kSmoke ? 1ull << 24 : named_size;
    const std::string suffix = gigabyte ? "1gib_us" : absl::StrCat(named_size >> 10, "kib_us");
    std::vector<double> hand_over;
    std::vector<double> read;
    std::vector<double> read_populated;
    std::vector<double> fill;
    uint64_t expected;
    {
      // A producer that works in the shared memory from the start: nothing but the hand-over is
      // left.
      Memory memory(size);
      for (uint64_t at = 0; at < size; at += sizeof(uint64_t)) {
        const uint64_t word = at * 0x9e3779b97f4a7c15ull;
        memcpy(memory.data() + at, &word, sizeof(word));
      }
      expected = SumOf(memory.data(), size);
      HandOver(stub.get(), memory.fd(), size, true, false, expected);
      for (int i = 0; i < repeats * 5; ++i) {
        hand_over.push_back(HandOver(stub.get(), memory.fd(), size, false, false, expected));
      }
      for (int i = 0; i < repeats; ++i) {
        read.push_back(HandOver(stub.get(), memory.fd(), size, true, false, expected));
        read_populated.push_back(HandOver(stub.get(), memory.fd(), size, true, true, expected));
        // One that copies what it has into fresh memory first.
        const double begin = NowMicros();
        Memory fresh(size, true);
        memcpy(fresh.data(), memory.data(), size);
        const double filled = NowMicros() - begin;
        fill.push_back(filled + HandOver(stub.get(), fresh.fd(), size, true, true, expected));
      }
      std::map<StreamChoice, std::vector<double>> streams;
      std::vector<uint64_t> chunks{1ull << 16, 1ull << 18, 1ull << 20, 1ull << 22};
      if (extent != Extent::kFull) chunks = {1ull << 18, 1ull << 20};
      for (const bool large_windows : {false, true}) {
        const auto stream_stub = Bench::NewStub(StreamChannel(setup, large_windows));
        for (const uint64_t chunk : chunks) {
          if (chunk > size && chunk != chunks.front()) continue;
          for (int i = 0; i < (extent == Extent::kFull ? 3 : 1); ++i) {
            streams[{chunk, large_windows}].push_back(
                Upload(stream_stub.get(), memory.data(), size, chunk, expected));
          }
        }
      }
      double best = INFINITY;
      for (const auto& [choice, times] : streams) {
        if (Median(times) >= best) continue;
        best = Median(times);
        (*notes)["stream_" + suffix] =
            absl::StrCat("chunks of ", choice.chunk_size >> 10, " KiB, ",
                         choice.large_windows ? "large frames, write buffer and read chunks"
                                              : "default arguments");
      }
      (*figures)["stream_" + suffix] = best;
    }
    (*figures)["memfd_" + suffix] = Median(hand_over);
    (*figures)["memfd_read_" + suffix] = Median(read);
    (*figures)["memfd_read_populated_" + suffix] = Median(read_populated);
    (*figures)["memfd_fill_read_" + suffix] = Median(fill);
  }
}

// --- Sessions and leaks ---

Stats GetStats(Bench::Stub* stub) {
  grpc::ClientContext context;
  Stats stats;
  const grpc::Status status = stub->GetStats(&context, StatsRequest(), &stats);
  if (!status.ok()) Die("GetStats: " + status.error_message());
  return stats;
}

// What a client's FdChannel does to get a session, without its threads.
UniqueFd OpenSession(const std::string& path) {
  const UniqueFd connection = Connect(path, SOCK_STREAM);
  internal::Hello hello;
  const absl::StatusOr<internal::Token> token = internal::Token::Mint();
  if (!token.ok()) Die(token.status().ToString());
  hello.token = *token;
  hello.limits = {16, 64};
  std::array<char, internal::kHelloSize> bytes;
  internal::EncodeHello(hello, &bytes);
  if (::write(connection.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    Die("say hello");
  }
  char reply[256];
  iovec data{reply, sizeof(reply)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (::recvmsg(connection.get(), &message, MSG_CMSG_CLOEXEC) <= 0) Die("hello's reply");
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header == nullptr) Die("no session was made");
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return UniqueFd(fd);
}

// In a server of its own: in one that has served, sessions take memory that others have given back.
void MeasureSessions(const std::string& server, const std::string& folder, Figures* figures) {
  constexpr size_t kSessions = 1000;
  Setup setup;
  setup.folder = folder + "/sessions";
  if (::mkdir(setup.folder.c_str(), 0700) != 0) Die("make " + setup.folder);
  const ServingProcess serving(server, setup.folder);
  const auto stub = Bench::NewStub(StockChannel(setup.Target("sync", "a")));
  std::vector<UniqueFd> sessions;
  // The first ones touch code and fill pools that all will share.
  for (int i = 0; i < 50; ++i) sessions.push_back(OpenSession(setup.Path("sync_a")));
  for (int i = 0; i < 10; ++i) GetStats(stub.get());
  const Stats before = GetStats(stub.get());
  for (size_t i = 0; i < kSessions; ++i) sessions.push_back(OpenSession(setup.Path("sync_a")));
  const Stats after = GetStats(stub.get());
  if (after.sessions() - before.sessions() != kSessions) Die("not all sessions were made");
  (*figures)["session_rss_bytes"] =
      (static_cast<double>(after.resident_bytes()) - static_cast<double>(before.resident_bytes())) /
      kSessions;
}

void CountLeaks(const Setup& setup, int calls, Figures* figures) {
  constexpr int kThreads = 8;
  const auto channel = GrpcfdChannel(setup.Target("sync", "a"));
  const auto stub = Bench::NewStub(channel);
  std::atomic<int> left{1000};
  const auto go_on = [&left] { return left.fetch_sub(1) > 0; };
  CallInThreads(channel, kThreads, true, go_on);
  const size_t here = OpenFds();
  const uint64_t there = GetStats(stub.get()).open_fds();
  left = calls;
  CallInThreads(channel, kThreads, true, go_on);
  // The last call's end may still be on its way: a client can have its reply a little earlier.
  const double deadline = NowMicros() + 5e6;
  double leaked = NAN;
  do {
    const Stats stats = GetStats(stub.get());
    leaked = static_cast<double>(OpenFds()) - static_cast<double>(here) +
             static_cast<double>(stats.open_fds()) - static_cast<double>(there);
  } while (leaked > 0 && NowMicros() < deadline);
  (*figures)["leaked_fds"] = std::max(leaked, 0.0);
}

// --- Report ---

// What is aimed at, and what was reached. Absolute times are a machine's, not a program's: those of
// the aims were taken where a stock call takes 24 us.
void PrintTargets(const Figures& figures) {
  const auto value = [&](const char* name) {
    const auto it = figures.find(name);
    return it == figures.end() ? NAN : it->second;
  };
  printf("\nTargets\n");
  const auto at_most = [&](const char* name, double most) {
    printf("  %-24s %9.2f   at most %9.2f   %s\n", name, value(name), most,
           value(name) <= most ? "reached" : "MISSED");
  };
  at_most("intercepted_ratio", 1.03);
  at_most("extra_1fd_us", 2.5);
  at_most("extra_1fd_us", value("capnp_extra_1fd_us"));
  at_most("extra_16fd_us", 1.25 * value("raw_extra_16fd_us") + 2);
  at_most("extra_16fd_us", value("capnp_extra_16fd_us"));
  at_most("extra_253fd_us", 1.3 * value("raw_extra_253fd_us") + 3);
  at_most("reply_extra_1fd_us", 2.5);
  printf("  %-24s %9.2f   at least %8.2f   %s\n", "throughput_ratio_1fd",
         value("throughput_ratio_1fd"), 0.85,
         value("throughput_ratio_1fd") >= 0.85 ? "reached" : "MISSED");
  at_most("session_rss_bytes", 4096);
  at_most("leaked_fds", 0);
}

void Print(const Figures& figures, const std::map<std::string, std::string>& notes) {
  const auto row = [&](const std::string& prefix, const char* label, const std::string& plain,
                       const std::string& extra) {
    const auto get = [&](const std::string& name) {
      const auto it = figures.find(prefix + name);
      return it == figures.end() ? std::string("-") : absl::StrFormat("%+.2f", it->second);
    };
    const auto it = figures.find(prefix + plain);
    printf("  %-34s %9s %9s %9s %9s\n", label,
           it == figures.end() ? "-" : absl::StrFormat("%.2f", it->second).c_str(),
           get(extra + "extra_1fd_us").c_str(), get(extra + "extra_16fd_us").c_str(),
           get(extra + "extra_253fd_us").c_str());
  };
  for (const std::string prefix : {"", "unpinned_"}) {
    printf("\n%s, microseconds; medians of blocks\n",
           prefix.empty() ? "Both processes on one core" : "Not pinned");
    printf("  %-34s %9s %9s %9s %9s\n", "", "call", "+1 fd", "+16 fds", "+253 fds");
    row(prefix, "raw SCM_RIGHTS, seqpacket", "raw_plain_us", "raw_");
    row(prefix, "sd-bus, peer to peer", "sdbus_plain_us", "sdbus_");
    row(prefix, "Cap'n Proto RPC", "capnp_plain_us", "capnp_");
    row(prefix, "gRPC, stock", "plain_us", "none_");
    row(prefix, "  descriptors by hand, unnamed", "plain_us", "by_hand_");
    row(prefix, "  by hand, named", "plain_us", "named_");
    row(prefix, "grpcfd, sync server", "intercepted_us", "");
    row(prefix, "  the descriptor in the reply", "intercepted_us", "reply_");
    row(prefix, "  a duplicate sent", "intercepted_us", "borrowed_");
    row(prefix, "grpcfd, callback server", "callback_plain_us", "callback_");
    row(prefix, "grpcfd, asynchronous server", "async_plain_us", "async_");
  }
  PrintTargets(figures);
  printf("\nAll figures\n");
  for (const auto& [name, value] : figures) {
    const auto note = notes.find(name);
    printf("  %-44s %14.3f%s\n", name.c_str(), value,
           note == notes.end() ? "" : ("   " + note->second).c_str());
  }
}

void WriteJson(const Figures& figures, const std::string& file) {
  google::protobuf::Struct object;
  for (const auto& [name, value] : figures) {
    (*object.mutable_fields())[name].set_number_value(value);
  }
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  if (!google::protobuf::util::MessageToJsonString(object, &text, options).ok()) Die("make JSON");
  std::ofstream out(file);
  out << text;
  out.close();
  if (!out) Die("write " + file);
}

// What every run must have measured.
const char* const kRequired[] = {"plain_us",
                                 "intercepted_us",
                                 "intercepted_ratio",
                                 "extra_1fd_us",
                                 "extra_16fd_us",
                                 "extra_253fd_us",
                                 "url_metadata_us",
                                 "reply_extra_1fd_us",
                                 "raw_extra_1fd_us",
                                 "raw_extra_16fd_us",
                                 "raw_extra_253fd_us",
                                 "sdbus_extra_1fd_us",
                                 "sdbus_extra_16fd_us",
                                 "capnp_extra_1fd_us",
                                 "capnp_extra_16fd_us",
                                 "callback_extra_1fd_us",
                                 "async_extra_1fd_us",
                                 "tuned_1fd_us",
                                 "default_1fd_us",
                                 "throughput_ratio_1fd",
                                 "memfd_1gib_us",
                                 "stream_1gib_us",
                                 "session_rss_bytes",
                                 "leaked_fds"};

bool Complete(const Figures& figures) {
  bool complete = true;
  for (const char* name : kRequired) {
    if (figures.count(name) > 0) continue;
    fprintf(stderr, "benchmark: the figure %s is missing\n", name);
    complete = false;
  }
  for (const auto& [name, value] : figures) {
    if (std::isfinite(value)) continue;
    fprintf(stderr, "benchmark: the figure %s is not finite\n", name.c_str());
    complete = false;
  }
  const auto leaked = figures.find("leaked_fds");
  if (leaked != figures.end() && leaked->second != 0) {
    fprintf(stderr, "benchmark: %.0f descriptors were left open\n", leaked->second);
    complete = false;
  }
  return complete;
}

int Main(int argc, char** argv) {
  CLI::App app("Measures what it costs to pass descriptors along with calls.");
  std::string server;
  std::string folder;
  std::string json;
  bool quick = false;
  bool smoke = false;
  std::string part;
  std::vector<std::string> only;
  Plan plan;
  app.add_option("--server", server, "The serving program")->required();
  app.add_option("--dir", folder, "Folder for the sockets")->required();
  app.add_option("--json", json, "Where to write the figures, as one flat JSON object");
  app.add_flag("--quick", quick, "Fewer rounds; within a minute");
  app.add_flag("--smoke", smoke, "Hardly any calls: for tests of this program");
  app.add_option("--part", part,
                 "Only this one: pinned, tuned, unpinned, threads, memory, sessions or leaks");
  app.add_option(
      "--only", only,
      "With --part: only these variants, \"sync 1\" say, for profiling and for looking at "
      "one thing at a time");
  std::vector<std::string> serve_with;
  app.add_option("--serve-with", serve_with,
                 "Options for the serving program, each on its own: --serve-with=--lean");
  app.add_option("--rounds", plan.rounds, "How many blocks of each variant");
  CLI11_PARSE(app, argc, argv);

  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) Die("getrlimit");
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) Die("setrlimit");

  Setup setup;
  setup.folder = folder;
  Figures figures;
  std::map<std::string, std::string> notes;
  plan.only = {only.begin(), only.end()};
  plan.extent = smoke ? Extent::kSmoke : quick ? Extent::kQuick : Extent::kFull;
  if (plan.rounds == 0) plan.rounds = smoke ? 2 : quick ? 20 : 400;

  // gRPC makes as many threads as it sees processors when it starts, so each setting has a pair of
  // processes of its own: this program runs itself.
  const auto run_part = [&](const std::string& name, const std::vector<std::string>& variants,
                            int rounds) {
    const std::string part_folder = folder + "/" + name;
    const std::string part_json = part_folder + ".json";
    if (::mkdir(part_folder.c_str(), 0700) != 0) Die("make " + part_folder);
    std::vector<std::string> arguments{
        argv[0],   "--server", server, "--dir",    part_folder,           "--json",
        part_json, "--part",   name,   "--rounds", std::to_string(rounds)};
    if (smoke) arguments.emplace_back("--smoke");
    for (const std::string& variant : variants) {
      arguments.emplace_back("--only");
      arguments.push_back(variant);
    }
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    pid_t pid;
    errno = ::posix_spawn(&pid, argv[0], nullptr, nullptr, pointers.data(), environ);
    if (errno != 0) Die("start the part " + name);
    int status = 0;
    ::waitpid(pid, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) Die("the part " + name + " failed");
    std::ifstream in(part_json);
    std::stringstream text;
    text << in.rdbuf();
    google::protobuf::Struct object;
    if (!google::protobuf::util::JsonStringToMessage(text.str(), &object).ok()) {
      Die("read the figures of " + name);
    }
    for (const auto& field : object.fields()) figures[field.first] = field.second.number_value();
  };

  if (part == "pinned" || part == "tuned") {
    if (part == "tuned") {
      absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
      plan.prefix = "tuned_";
      serve_with.emplace_back("--tuned");
    }
    const PinnedToOneCore pinned;
    const ServingProcess serving(server, folder, serve_with);
    MeasureCalls(setup, plan, &figures);
    if (!json.empty()) WriteJson(figures, json);
    return 0;
  }

  const std::vector<std::string> tuned{"sync 0",  "sync 1",     "async 0",
                                       "async 1", "callback 1", "lean async 1"};
  if (part.empty()) {
    run_part("pinned", {}, plan.rounds);
    run_part("tuned", tuned, plan.rounds);
    // Of the configurations tried: which server, with all filters of gRPC's and without some, with
    // abseil's deadlock detection and without.
    double best = INFINITY;
    for (const char* name : {"tuned_default_1fd_us", "tuned_async_1fd_us", "tuned_callback_1fd_us",
                             "tuned_lean_async_1fd_us", "async_1fd_us", "callback_1fd_us",
                             "lean_1fd_us", "lean_async_1fd_us", "default_1fd_us"}) {
      if (figures[name] >= best) continue;
      best = figures[name];
      notes["tuned_1fd_us"] = absl::StrCat("best of nine: ", name);
    }
    figures["tuned_1fd_us"] = best;
  }

  const ServingProcess serving(server, folder, serve_with);
  plan.prefix = "unpinned_";
  if (plan.extent != Extent::kFull) {
    plan.only = {"stock 0", "sync 0",  "sync 1",  "sync 16", "raw 0",   "raw 1",
                 "raw 16",  "sdbus 0", "sdbus 1", "capnp 0", "capnp 1", "capnp 16"};
  }
  plan.rounds = std::max(1, plan.rounds / 2);
  const auto wanted = [&part](const char* name) { return part.empty() || part == name; };
  if (wanted("unpinned")) MeasureCalls(setup, plan, &figures);
  if (wanted("threads")) MeasureThroughput(setup, plan.extent, &figures);
  if (wanted("memory")) MeasureMemory(setup, plan.extent, &figures, &notes);
  if (wanted("sessions")) MeasureSessions(server, folder, &figures);
  if (wanted("leaks")) {
    CountLeaks(setup, plan.extent == Extent::kSmoke ? 1000 : 100000, &figures);
  }

  Print(figures, notes);
  if (!json.empty()) WriteJson(figures, json);
  return !part.empty() || Complete(figures) ? 0 : 1;
}

}  // namespace
}  // namespace benchmarks
}  // namespace grpcfd

int main(int argc, char** argv) { return grpcfd::benchmarks::Main(argc, argv); }
