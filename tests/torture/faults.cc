// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Row 8: every system call of the library fails once, with every errno.
//
// A scenario (start, connect, a call with descriptors both ways, a stream with descriptors both
// ways, shutdown) is run again and again, and each time the k-th call of one kind fails, until
// there is no k-th call.
#include <errno.h>
#include <string.h>

#include <array>
#include <atomic>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/torture/raw_client.h"
#include "tests/torture/syscalls.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

using internal::Eventually;
using testing_internal::Content;
using testing_internal::FunctionService;
using testing_internal::MemoryFile;
using testing_internal::SetDeadline;

namespace {

constexpr int kDescriptors = 3;
// In the place of an errno: one byte is transferred instead of all.
constexpr int kShort = -1;

struct Outcome {
  absl::Status started;
  grpc::Status unary;
  grpc::Status stream;
  grpc::Status after;
};

// Takes all that the request names. What was sent before the call comes whole or not at all; later
// descriptors of a stream travel one by one.
grpc::Status TakeAndGive(grpc::ServerContext* context, const test::ExchangeRequest& request,
                         bool whole, test::ExchangeReply* reply) {
  auto fds = FromContext(context);
  if (!fds->status().ok()) return ToGrpcStatus(fds->status());
  int taken = 0;
  absl::Status failed;
  for (const std::string& url : request.urls()) {
    auto fd = fds->RecvFd(url);
    if (fd.ok()) {
      ++taken;
      reply->set_payload(reply->payload() + Content(*fd) + "|");
    } else {
      failed = fd.status();
    }
  }
  EXPECT_TRUE(failed.ok() || taken == 0 || !whole)
      << "a part came: " << taken << ", then " << failed;
  if (!failed.ok()) return ToGrpcStatus(failed);
  for (int i = 0; i < kDescriptors; ++i) {
    auto url = fds->SendFd(MemoryFile(absl::StrCat("back ", i)));
    if (!url.ok()) return ToGrpcStatus(url.status());
    reply->add_urls(url->ToString());
  }
  return grpc::Status::OK;
}

grpc::Status Receive(FdTransceiver* fds, const test::ExchangeReply& reply) {
  for (int i = 0; i < reply.urls_size(); ++i) {
    auto fd = fds->RecvFd(reply.urls(i));
    if (!fd.ok()) return ToGrpcStatus(fd.status());
    EXPECT_EQ(absl::StrCat("back ", i), Content(*fd));
  }
  return grpc::Status::OK;
}

std::string Queue(FdTransceiver* fds, test::ExchangeRequest* request, absl::Status* status) {
  std::string expected;
  for (int i = 0; i < kDescriptors; ++i) {
    const std::string content = absl::StrCat("there ", i);
    UniqueFd file = MemoryFile(content);
    // One is lent, and so duplicated.
    auto url = i == 0 ? fds->SendFd(BorrowedFd(file)) : fds->SendFd(std::move(file));
    if (!url.ok()) {
      *status = url.status();
      return std::string();
    }
    request->add_urls(url->ToString());
    expected += content + "|";
  }
  return expected;
}

// `patient`: gRPC waits before it connects again, if its own connection was lost.
grpc::Status CallUnary(test::TestService::Stub* stub, bool patient) {
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  context.set_wait_for_ready(patient);
  auto fds = FromContext(&context);
  test::ExchangeRequest request;
  test::ExchangeReply reply;
  absl::Status queued;
  const std::string expected = Queue(fds.get(), &request, &queued);
  if (!queued.ok()) return ToGrpcStatus(queued);
  const grpc::Status status = stub->Exchange(&context, request, &reply);
  if (!status.ok()) return status;
  EXPECT_EQ(expected, reply.payload());
  return Receive(fds.get(), reply);
}

// What the server sends when the client waits for it already.
struct Late {
  const UniqueFd file = MemoryFile("late");
  std::atomic<bool> failed{false};
};

grpc::Status CallStream(test::TestService::Stub* stub, const Late& late) {
  grpc::ClientContext context;
  SetDeadline(&context, 20);
  auto fds = FromContext(&context);
  auto stream = stub->Chat(&context);
  absl::Status queued;
  grpc::Status received;
  for (int turn = 0; turn < 2 && queued.ok(); ++turn) {
    test::ExchangeRequest request;
    test::ExchangeReply reply;
    const std::string expected = Queue(fds.get(), &request, &queued);
    if (!queued.ok() || !stream->Write(request) || !stream->Read(&reply)) break;
    EXPECT_EQ(expected, reply.payload());
    received = Receive(fds.get(), reply);
    if (!received.ok()) break;
    if (turn == 0) continue;
    request.set_command("late");
    request.clear_urls();
    request.set_number(SyscallCount(Syscall::kPpoll));
    if (!stream->Write(request)) break;
    const std::string url = UrlOf(late.file, 2 * kDescriptors);
    auto fd = fds->RecvFd(url, absl::Now() + absl::Milliseconds(50));
    // A thread in RecvFd of a synchronous stream does not see the call end: the status is read
    // below.
    while (absl::IsDeadlineExceeded(fd.status()) && !late.failed) {
      fd = fds->RecvFd(url, absl::Now() + absl::Milliseconds(50));
    }
    if (late.failed) break;
    received = ToGrpcStatus(fd.status());
    if (fd.ok()) {
      EXPECT_EQ("late", Content(*fd));
    }
  }
  if (!queued.ok() || !received.ok()) context.TryCancel();
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  if (!queued.ok()) return ToGrpcStatus(queued);
  return received.ok() ? status : received;
}

Outcome RunScenario() {
  Outcome outcome;
  internal::TempDir dir;
  const std::string address = "unix:" + dir.File("s");
  Late late;
  FunctionService service;
  service.exchange = [](grpc::ServerContext* context, const test::ExchangeRequest* request,
                        test::ExchangeReply* reply) {
    return TakeAndGive(context, *request, /*whole=*/true, reply);
  };
  service.chat = [&late](
                     grpc::ServerContext* context,
                     grpc::ServerReaderWriter<test::ExchangeReply, test::ExchangeRequest>* stream) {
    test::ExchangeRequest request;
    while (stream->Read(&request)) {
      if (request.command() == "late") {
        EXPECT_TRUE(Eventually([&] {
          return SyscallCount(Syscall::kPpoll) > request.number() || context->IsCancelled();
        }));
        auto fds = FromContext(context);
        if (!fds->status().ok()) return ToGrpcStatus(fds->status());
        auto url = fds->SendFd(BorrowedFd(late.file));
        if (url.ok()) continue;
        late.failed = true;
        return ToGrpcStatus(url.status());
      }
      test::ExchangeReply reply;
      const grpc::Status status = TakeAndGive(context, request, /*whole=*/false, &reply);
      if (!status.ok()) return status;
      stream->Write(reply);
    }
    return grpc::Status::OK;
  };
  grpc::ServerBuilder builder;
  ListenOptions options;
  options.bind_status = &outcome.started;
  AddListeningPort(&builder, address, grpc::InsecureServerCredentials(), options);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  if (server == nullptr) {
    EXPECT_FALSE(outcome.started.ok());
    StopFailing();
    return outcome;
  }
  {
    auto stub = test::TestService::NewStub(MakeChannel(address));
    outcome.unary = CallUnary(stub.get(), /*patient=*/false);
    outcome.stream = CallStream(stub.get(), late);
    StopFailing();
    outcome.after = CallUnary(stub.get(), /*patient=*/true);
  }
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return outcome;
}

bool MayNotBeSeen(Syscall call, int error) {
  if (error == kShort) return true;
  // What the kernel says EINTR of (signal(7)), and EAGAIN: a call that would have to wait. Of the
  // others they are errors like any.
  switch (call) {
    case Syscall::kRecvmsg:
    case Syscall::kRecvmmsg:
    case Syscall::kSendmsg:
    case Syscall::kAccept4:
    case Syscall::kConnect:
      return error == EINTR || error == EAGAIN;
    case Syscall::kEpollWait:
    case Syscall::kPpoll:
      return error == EINTR;
    default:
      return false;
  }
}

bool IsDocumented(Syscall call, grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::FAILED_PRECONDITION:  // EPERM: the socket takes no descriptors.
    case grpc::StatusCode::PERMISSION_DENIED:    // The server cannot tell who asks.
      return true;
    case grpc::StatusCode::INTERNAL:  // What the server sent cannot be told for a session's socket.
      return call == Syscall::kGetsockopt;
    default:
      return false;
  }
}

}  // namespace

void Row08(Row* row) {
  constexpr std::array<int, 11> kErrors = {EINTR,        EAGAIN, ENOBUFS,    ENOMEM, EMFILE, ENFILE,
                                           ETOOMANYREFS, EPIPE,  ECONNRESET, EPERM,  kShort};
  // Twice without faults: what gRPC and the library open lazily is open after the first.
  RunScenario();
  ResetSyscalls();
  const Outcome clean = RunScenario();
  ASSERT_TRUE(clean.started.ok()) << clean.started;
  ASSERT_TRUE(clean.unary.ok()) << clean.unary.error_message();
  ASSERT_TRUE(clean.stream.ok()) << clean.stream.error_message();
  std::map<std::string, uint64_t> counted;
  std::map<grpc::StatusCode, uint64_t> seen;
  for (int index = 0; index < kSyscalls; ++index) {
    const Syscall call = static_cast<Syscall>(index);
    for (const int error : kErrors) {
      const bool short_io =
          call == Syscall::kRecvmsg || call == Syscall::kRecvmmsg || call == Syscall::kSendmsg;
      if (error == kShort && !short_io) continue;
      // The number of calls differs a little from run to run: on until one is not reached.
      for (uint64_t k = 1; !Failed(); ++k) {
        FdLeakChecker leaks;
        if (error == kShort) {
          ShortenSyscall(call, k);
        } else {
          FailSyscall(call, k, error);
        }
        const Outcome outcome = RunScenario();
        StopFailing();
        const bool reached = Injected();
        const std::string where = absl::StrCat(SyscallName(call), " number ", k, ": ",
                                               error == kShort ? "short" : strerror(error));
        const bool clean_leave = leaks.WaitUntilClean(absl::Seconds(10));
        EXPECT_TRUE(clean_leave) << where;
        EXPECT_TRUE(outcome.after.ok())
            << where << ": the next call failed: " << outcome.after.error_code() << " "
            << outcome.after.error_message();
        for (const grpc::Status& status : {outcome.unary, outcome.stream}) {
          ++seen[status.error_code()];
          if (MayNotBeSeen(call, error)) {
            EXPECT_TRUE(status.ok())
                << where << " was seen: " << status.error_code() << " " << status.error_message();
          } else {
            EXPECT_TRUE(IsDocumented(call, status.error_code()))
                << where << ": " << status.error_code() << " " << status.error_message();
          }
        }
        if (MayNotBeSeen(call, error)) {
          EXPECT_TRUE(outcome.started.ok()) << where << ": " << outcome.started;
        }
        if (!reached) break;
        row->Done();
        counted[SyscallName(call)] = std::max(counted[SyscallName(call)], k);
      }
    }
  }
  std::string calls;
  for (const auto& [name, count] : counted) {
    absl::StrAppend(&calls, calls.empty() ? "" : ", ", name, " ", count);
  }
  row->Figure(absl::StrCat("each of ", calls, " with 10 errnos; calls ended OK ",
                           seen[grpc::StatusCode::OK], ", RESOURCE_EXHAUSTED ",
                           seen[grpc::StatusCode::RESOURCE_EXHAUSTED], ", UNAVAILABLE ",
                           seen[grpc::StatusCode::UNAVAILABLE]));
}

}  // namespace torture
}  // namespace grpcfd
