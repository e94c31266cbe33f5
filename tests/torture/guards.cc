// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Rows 22, 23 and 26: what a descriptor may be, what may be mapped, and whether all of it holds for
// long.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "grpcfd/mapped_memory.h"
#include "grpcfd/receive_policy.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/soak.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

using testing_internal::MemoryFile;
using testing_internal::SetDeadline;

// --- Row 22 ---

namespace {

UniqueFd Sealed(int seals) {
  UniqueFd fd(memfd_create("grpcfd_test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(0, ftruncate(fd.get(), 4096));
  EXPECT_EQ(0, fcntl(fd.get(), F_ADD_SEALS, seals));
  return fd;
}

UniqueFd ReadOnly(const UniqueFd& fd) {
  return UniqueFd(open(absl::StrCat("/proc/self/fd/", fd.get()).c_str(), O_RDONLY | O_CLOEXEC));
}

struct Specimen {
  const char* name;
  UniqueFd fd;
  bool strict;     // Whether ReceivePolicy::Strict() takes it,
  bool read_only;  // a policy that takes read-only descriptors alone,
  bool sealed;     // one that asks regular files for F_SEAL_SHRINK,
  bool regular;    // and one for regular files only.
};

std::vector<Specimen> Specimens() {
  std::vector<Specimen> all;
  const auto add = [&all](const char* name, UniqueFd fd, bool strict, bool read_only, bool sealed,
                          bool regular) {
    EXPECT_TRUE(fd.valid()) << name;
    all.push_back(Specimen{name, std::move(fd), strict, read_only, sealed, regular});
  };
  const auto opened = [](const char* path, int flags) {
    return UniqueFd(open(path, flags | O_CLOEXEC));
  };
  int pair[2];
  EXPECT_EQ(0, pipe2(pair, O_CLOEXEC));
  add("pipe, read end", UniqueFd(pair[0]), true, true, true, false);
  add("pipe, write end", UniqueFd(pair[1]), true, false, true, false);
  EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
  const UniqueFd other_end(pair[1]);
  add("unix socket", UniqueFd(pair[0]), false, false, true, false);
  const UniqueFd memory = MemoryFile("policy");
  add("memfd", MemoryFile("policy"), true, false, false, true);
  add("memfd, read-only", ReadOnly(memory), true, true, false, true);
  add("memfd, sealed", Sealed(F_SEAL_SHRINK | F_SEAL_GROW), true, false, true, true);
  add("directory", opened("/", O_RDONLY | O_DIRECTORY), false, true, true, false);
  add("directory, O_PATH", opened("/", O_PATH), false, false, true, false);
  add("file, O_PATH", opened("/proc/self/exe", O_PATH), false, false, false, true);
  add("symbolic link, O_PATH", opened("/proc/self/exe", O_PATH | O_NOFOLLOW), false, false, true,
      false);
  add("epoll", UniqueFd(epoll_create1(EPOLL_CLOEXEC)), false, false, true, false);
  add("device", opened("/dev/null", O_RDONLY), false, true, true, false);
  UniqueFd terminal(posix_openpt(O_RDWR | O_NOCTTY));
  if (terminal.valid()) {
    EXPECT_EQ(0, fcntl(terminal.get(), F_SETFD, FD_CLOEXEC));
    add("terminal", std::move(terminal), false, false, true, false);
  }
  add("eventfd", UniqueFd(eventfd(0, EFD_CLOEXEC)), true, false, true, false);
  add("internet socket", UniqueFd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)), true, false, true,
      false);
  return all;
}

// Sends each specimen to a server with `policy`, and has it come back to a client with `policy`.
void TryPolicy(Row* row, const ReceivePolicy& policy, const char* name,
               const std::vector<Specimen>& specimens, bool Specimen::*accepted) {
  auto fd_server = FdServer::Create([&policy] {
    FdServerOptions options;
    options.receive_policy = policy;
    return options;
  }());
  ASSERT_TRUE(fd_server.ok()) << fd_server.status();
  testing_internal::TestServer server(
      [&](grpc::ServerBuilder*, ListenOptions* options) { options->fd_server = *fd_server; });
  const UniqueFd* to_send = nullptr;
  server.service.exchange = [&to_send](grpc::ServerContext* context,
                                       const test::ExchangeRequest* request,
                                       test::ExchangeReply* reply) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    if (request->command() == "send") {
      auto url = fds->SendFd(BorrowedFd(*to_send));
      if (url.ok()) reply->add_urls(url->ToString());
      return ToGrpcStatus(url.status());
    }
    // The second is harmless, and comes whatever becomes of the first.
    const absl::Status first = fds->RecvFd(request->urls(0)).status();
    return ToGrpcStatus(first);
  };
  ChannelOptions options;
  options.fd_channel_options.receive_policy = policy;
  auto stub = test::TestService::NewStub(MakeChannel(server.address(), options));
  for (const Specimen& specimen : specimens) {
    const bool expected = accepted == nullptr || specimen.*accepted;
    {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      auto fds = FromContext(&context);
      test::ExchangeRequest request;
      request.add_urls(fds->SendFd(BorrowedFd(specimen.fd))->ToString());
      test::ExchangeReply reply;
      const grpc::Status status = stub->Exchange(&context, request, &reply);
      EXPECT_EQ(expected ? grpc::StatusCode::OK : grpc::StatusCode::PERMISSION_DENIED,
                status.error_code())
          << name << ", " << specimen.name << ": " << status.error_message();
      row->Done();
    }
    {
      grpc::ClientContext context;
      SetDeadline(&context, 20);
      auto fds = FromContext(&context);
      to_send = &specimen.fd;
      test::ExchangeRequest request;
      request.set_command("send");
      test::ExchangeReply reply;
      const grpc::Status status = stub->Exchange(&context, request, &reply);
      ASSERT_TRUE(status.ok()) << status.error_message();
      const absl::Status received = fds->RecvFd(reply.urls(0)).status();
      EXPECT_EQ(expected ? absl::StatusCode::kOk : absl::StatusCode::kPermissionDenied,
                received.code())
          << name << ", " << specimen.name << ": " << received;
      row->Done();
    }
  }
}

}  // namespace

void Row22(Row* row) {
  const std::vector<Specimen> specimens = Specimens();
  TryPolicy(row, ReceivePolicy(), "default", specimens, nullptr);
  TryPolicy(row, ReceivePolicy::Strict(), "strict", specimens, &Specimen::strict);
  TryPolicy(
      row,
      ReceivePolicy().RefuseAccess({FdAccess::kWriteOnly, FdAccess::kReadWrite, FdAccess::kPath}),
      "read-only", specimens, &Specimen::read_only);
  TryPolicy(row, ReceivePolicy().RequireSeals(F_SEAL_SHRINK), "seals", specimens,
            &Specimen::sealed);
  TryPolicy(row, ReceivePolicy().AcceptOnly({FdType::kRegularFile}), "regular files", specimens,
            &Specimen::regular);
  row->Figure(absl::StrCat(specimens.size(), " kinds, 5 policies, both directions"));
}

// --- Row 23 ---

namespace {

int64_t Resident() {
  FILE* const file = fopen("/proc/self/statm", "re");
  long size = 0, resident = 0;
  if (file != nullptr) {
    if (fscanf(file, "%ld %ld", &size, &resident) != 2) resident = 0;
    fclose(file);
  }
  return static_cast<int64_t>(resident) * sysconf(_SC_PAGESIZE);
}

constexpr int kAllSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;

}  // namespace

void Row23(Row* row) {
  constexpr uint64_t kSize = 4 * 4096;
  // Without seals it is refused, whatever else is right.
  for (const int seals :
       {0, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL}) {
    EXPECT_EQ(absl::StatusCode::kFailedPrecondition,
              MappedMemory::Map(Sealed(seals), 1 << 20).status().code());
    row->Done();
  }
  // Sparse: neither mapped nor allocated.
  {
    UniqueFd sparse(memfd_create("grpcfd_test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(0, ftruncate(sparse.get(), off_t{1} << 50));
    ASSERT_EQ(0, fcntl(sparse.get(), F_ADD_SEALS, kAllSeals));
    const int64_t before = Resident();
    EXPECT_EQ(absl::StatusCode::kOutOfRange, MappedMemory::Map(sparse, 16 << 20).status().code());
    EXPECT_LT(Resident() - before, 1 << 20);
    row->Done();
  }
  // Races: the peer truncates and grows the file, and seals it at some moment or another, while it
  // is mapped and read. A mapping that was had is read to its last byte; SIGBUS would end the row.
  const uint64_t count = row->Count(100'000);
  uint64_t mapped = 0, refused = 0;
  int to_peer[2], from_peer[2];
  ASSERT_EQ(0, pipe2(to_peer, O_CLOEXEC));
  ASSERT_EQ(0, pipe2(from_peer, O_CLOEXEC));
  const UniqueFd work(to_peer[0]), done(from_peer[0]);
  UniqueFd give(to_peer[1]), report(from_peer[1]);
  std::thread peer([&work, &report] {
    int fd;
    for (uint64_t round = 0; ::read(work.get(), &fd, sizeof(fd)) == sizeof(fd); ++round) {
      for (uint64_t i = 0; i < round % 4; ++i) {
        (void)!ftruncate(fd, 0);
        (void)!ftruncate(fd, kSize);
      }
      if (round % 3 == 0) (void)!ftruncate(fd, 0);
      fcntl(fd, F_ADD_SEALS, kAllSeals);
      (void)!ftruncate(fd, 0);  // Too late.
      (void)!::write(report.get(), &fd, 1);
    }
  });
  for (uint64_t i = 0; i < count && !Failed(); ++i) {
    const UniqueFd fd(memfd_create("grpcfd_test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(0, ftruncate(fd.get(), kSize));
    const int number = fd.get();
    ASSERT_EQ(static_cast<ssize_t>(sizeof(number)), ::write(give.get(), &number, sizeof(number)));
    const auto map = [&] {
      auto memory = MappedMemory::Map(fd, 1 << 20);
      if (!memory.ok()) {
        EXPECT_TRUE(absl::IsFailedPrecondition(memory.status()) ||
                    absl::IsOutOfRange(memory.status()))
            << memory.status();
        ++refused;
        return;
      }
      ++mapped;
      const volatile char* const bytes = static_cast<const char*>(memory->data());
      char sum = 0;
      for (size_t k = 0; k < memory->size(); k += 512) sum = static_cast<char>(sum + bytes[k]);
      sum = static_cast<char>(sum + bytes[memory->size() - 1]);
      EXPECT_EQ(0, sum);
    };
    // In the thick of it, and once when the peer is done.
    for (int attempt = 0; attempt < 16; ++attempt) map();
    char byte;
    ASSERT_EQ(1, ::read(done.get(), &byte, 1));
    map();
    row->Done();
  }
  give.Reset();
  peer.join();
  EXPECT_GT(mapped, 0u);
  EXPECT_GT(refused, 0u);
  row->Figure(absl::StrCat(mapped, " mapped and read, ", refused, " refused, 0 SIGBUS"));
}

// --- Row 26 ---

void Row26(Row* row) {
  SoakOptions options;
  options.descriptors = row->Count(10'000'000);
  const SoakResult result = Soak(options);
  row->Done(result.descriptors);
  EXPECT_EQ(0u, result.swaps);
  const double drift = static_cast<double>(result.rss_drift) / (1 << 20);
#if defined(__SANITIZE_ADDRESS__) || defined(GRPCFD_SANITIZED)
  // A sanitizer keeps what was freed.
#else
  EXPECT_LT(drift, 1) << "MiB of growth";
#endif
  row->Figure(absl::StrCat(result.calls, " calls, ", result.faults, " faults, ", result.swaps,
                           " swaps, RSS drift ", absl::StrFormat("%.2f", drift), " MiB"));
}

}  // namespace torture
}  // namespace grpcfd
