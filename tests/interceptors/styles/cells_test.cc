// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The table: API style x call shape x ending. Each cell is one test; script.h says what happens in
// it. Whatever the ending, both directions are checked by content before it, and after it no copy
// of any descriptor is left, at either end or on its way; what the handler took and kept is its
// own; and its handle of the call says FAILED_PRECONDITION.
//
// Each cell that holds leaves a file, and call_table.py makes the table of them and fails if one is
// missing. The program is its own second process, see peer.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "grpcfd/testing/fd_leak_checker.h"
#include "tests/interceptors/styles/drivers.h"
#include "tests/interceptors/styles/peer.h"
#include "tests/interceptors/styles/script.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace styles {
namespace {

using grpc::StatusCode;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing_internal::TempDir;

// How the client and the server of a cell are written, and what they do.
struct Plan {
  Style client = Style::kSync;
  Style server = Style::kSync;
  Shape shape = Shape::kUnary;
  Ending ending = Ending::kOk;
};

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpcfd::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// What gives no signal is asked for.
template <typename Condition>
bool Eventually(const Condition& condition) {
  const absl::Time give_up = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > give_up) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

// What the caller is told. An exception comes out as each API has it: gRPC catches those of
// synchronous handlers, and those of callback methods, which then have no reactor; a completion
// queue's thread catches its own.
grpc::StatusCode Expected(const Plan& plan) {
  switch (plan.ending) {
    case Ending::kOk:
      return StatusCode::OK;
    case Ending::kError:
      return StatusCode::ABORTED;
    case Ending::kCancel:
      return StatusCode::CANCELLED;
    case Ending::kDeadline:
      return StatusCode::DEADLINE_EXCEEDED;
    case Ending::kThrow:
      return plan.server == Style::kCallback || plan.server == Style::kGenericCallback
                 ? StatusCode::UNIMPLEMENTED
                 : StatusCode::UNKNOWN;
    case Ending::kKilled:
      return StatusCode::UNAVAILABLE;
  }
  return StatusCode::INTERNAL;
}

const char* CodeName(grpc::StatusCode code) {
  static const char* const kNames[] = {"OK",
                                       "CANCELLED",
                                       "UNKNOWN",
                                       "INVALID_ARGUMENT",
                                       "DEADLINE_EXCEEDED",
                                       "NOT_FOUND",
                                       "ALREADY_EXISTS",
                                       "PERMISSION_DENIED",
                                       "RESOURCE_EXHAUSTED",
                                       "FAILED_PRECONDITION",
                                       "ABORTED",
                                       "OUT_OF_RANGE",
                                       "UNIMPLEMENTED",
                                       "INTERNAL",
                                       "UNAVAILABLE",
                                       "DATA_LOSS",
                                       "UNAUTHENTICATED"};
  return kNames[code];
}

// a3 is sent while the call runs; a callback method that throws never sees it.
void ExpectRead(const Plan& plan, const std::vector<std::string>& read) {
  const bool throws_at_once =
      plan.ending == Ending::kThrow && Expected(plan) == StatusCode::UNIMPLEMENTED;
  if (RequestsStream(plan.shape) && !throws_at_once) {
    EXPECT_THAT(read, ElementsAre("a0", "a1", "a3"));
  } else {
    EXPECT_THAT(read, ElementsAre("a0", "a1"));
  }
}

// Takes and copies what the server sent, while the call runs.
void TakeReplies(Style style, FdTransceiver* fds, const std::vector<std::string>& urls) {
  ASSERT_EQ(3u, urls.size());
  EXPECT_EQ("b0", ContentOf(Take(style, fds, urls[0])));
  EXPECT_TRUE(absl::IsFailedPrecondition(Take(style, fds, urls[0]).status()));
  EXPECT_EQ("b1", ContentOf(fds->DupFd(urls[1])));
}

// After the call: nothing is open but what the handler kept, and its handle is good for nothing.
void ExpectNothingLeft(Stage* stage, const Pipe& a2, const Pipe& b2, StyleServer* server) {
  EXPECT_TRUE(AwaitHangUp(a2.read)) << "somebody has a descriptor that the client sent";
  EXPECT_TRUE(AwaitHangUp(b2.read)) << "somebody has a descriptor that the server sent";
  EXPECT_TRUE(Eventually([&] { return CountOpen() <= 1; })) << CountOpen();
  EXPECT_TRUE(Eventually([&] { return server->fd_server()->held_fds() == 0; }));
  const std::shared_ptr<FdTransceiver> handle = stage->TakeHandle();
  ASSERT_NE(nullptr, handle);
  EXPECT_EQ("a0", ContentOf(stage->TakeKept()));
  EXPECT_EQ(0, CountOpen());
  EXPECT_TRUE(absl::IsFailedPrecondition(handle->RecvFd("inode://1/1?fd=1").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(handle->SendFd(BorrowedFd(0)).status()));
}

// Makes the call once. False if its deadline came too early for anything to happen.
bool InProcess(const Plan& plan, absl::Duration deadline) {
  const TempDir dir;
  const std::string address = "unix:" + dir.File("socket");
  Pipe a2;
  Pipe b2;
  Stage stage(plan.ending, std::move(b2.write));
  const auto server = StartServer(plan.server, address, &stage);
  const auto channel = ChannelTo(address);
  bool reached = false;
  {
    grpc::ClientContext context;
    if (plan.ending == Ending::kDeadline) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
    }
    ClientScript script(plan.shape, &context, std::move(a2.write));
    const auto call = StartCall(plan.client, channel, &script);
    reached = stage.AwaitReached([&] { return script.done(); });
    EXPECT_TRUE(reached || plan.ending == Ending::kDeadline);
    const Report report = stage.report();
    if (reached) {
      EXPECT_THAT(report.problems, IsEmpty());
      ExpectRead(plan, report.read);
      TakeReplies(plan.client, script.fds().get(), report.urls);
    }
    if (stage.ends_by_itself()) stage.Release();
    if (plan.ending == Ending::kCancel) context.TryCancel();
    const grpc::Status status = script.AwaitDone();
    EXPECT_EQ(CodeName(Expected(plan)), std::string(CodeName(status.error_code())))
        << status.error_message();
    if (plan.ending == Ending::kOk) {
      EXPECT_EQ(report.urls, script.urls());
      EXPECT_EQ("b1", ContentOf(Take(plan.client, script.fds().get(), report.urls[1])));
    }
  }
  if (!reached) {
    // The handler may not have been called at all.
    EXPECT_TRUE(AwaitHangUp(a2.read));
    return false;
  }
  ExpectNothingLeft(&stage, a2, b2, server.get());
  if (plan.ending == Ending::kCancel && stage.waited().has_value()) {
    EXPECT_EQ(absl::StatusCode::kCancelled, *stage.waited());
  }
  if (plan.ending == Ending::kDeadline && stage.waited().has_value()) {
    EXPECT_THAT(*stage.waited(),
                AnyOf(absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kCancelled));
  }
  EXPECT_TRUE(stage.waited().has_value() || stage.ends_by_itself() || !RequestsStream(plan.shape));
  return true;
}

void ServerIsKilled(const Plan& plan) {
  const TempDir dir;
  const std::string address = "unix:" + dir.File("socket");
  Pipe a2;
  Pipe b2;
  Peer server({"--serve", Name(plan.server), address}, std::move(b2.write));
  ASSERT_EQ("ready", server.Line());
  const auto channel = ChannelTo(address);
  {
    grpc::ClientContext context;
    ClientScript script(plan.shape, &context, std::move(a2.write));
    const auto call = StartCall(plan.client, channel, &script);
    const std::vector<std::string> report = absl::StrSplit(server.Line(), ' ');
    EXPECT_EQ(3u, report.size());
    if (report.size() == 3) {
      EXPECT_EQ("", report[2]);
      ExpectRead(plan, absl::StrSplit(report[0], ','));
      TakeReplies(plan.client, script.fds().get(), absl::StrSplit(report[1], ','));
    }
    server.Kill();
    const grpc::Status status = script.AwaitDone();
    EXPECT_EQ("UNAVAILABLE", std::string(CodeName(status.error_code()))) << status.error_message();
    EXPECT_TRUE(
        absl::IsUnavailable(Take(plan.client, script.fds().get(), "inode://1/1?fd=7").status()));
  }
  EXPECT_TRUE(AwaitHangUp(a2.read));
  EXPECT_TRUE(AwaitHangUp(b2.read));
  EXPECT_TRUE(Eventually([] { return CountOpen() == 0; })) << CountOpen();
}

void ClientIsKilled(const Plan& plan) {
  const TempDir dir;
  const std::string address = "unix:" + dir.File("socket");
  Pipe a2;
  Pipe b2;
  Stage stage(Ending::kKilled, std::move(b2.write));
  const auto server = StartServer(plan.server, address, &stage);
  Peer client({"--call", Name(plan.client), Name(plan.shape), address}, std::move(a2.write));
  ASSERT_TRUE(stage.AwaitReached([] { return false; }));
  const Report report = stage.report();
  EXPECT_THAT(report.problems, IsEmpty());
  ExpectRead(plan, report.read);
  client.Say(report.urls[0]);
  EXPECT_EQ("b0", client.Line());
  client.Kill();
  ExpectNothingLeft(&stage, a2, b2, server.get());
  if (RequestsStream(plan.shape)) {
    ASSERT_TRUE(stage.waited().has_value());
    EXPECT_THAT(*stage.waited(),
                AnyOf(absl::StatusCode::kCancelled, absl::StatusCode::kUnavailable));
  }
}

void Perform(const Plan& plan) {
  switch (plan.ending) {
    case Ending::kKilled:
      ServerIsKilled(plan);
      ClientIsKilled(plan);
      return;
    case Ending::kDeadline:
      // Nobody knows how long it takes on this machine until both directions are under way.
      for (absl::Duration deadline = absl::Milliseconds(60); deadline < absl::Seconds(20);
           deadline *= 4) {
        if (InProcess(plan, deadline)) return;
      }
      ADD_FAILURE() << "the call never got as far as its handler";
      return;
    default:
      EXPECT_TRUE(InProcess(plan, absl::ZeroDuration()));
  }
}

// The table's entry: what the caller was told.
void Record(const std::string& name, const std::string& text) {
  const std::string path = absl::StrCat(GRPCFD_CELLS_DIR, "/", name);
  FILE* const file = fopen(path.c_str(), "w");
  ASSERT_NE(nullptr, file) << path;
  fprintf(file, "%s\n", text.c_str());
  fclose(file);
}

using Coordinates = std::tuple<Style, Shape, Ending>;

class Cell : public ::testing::TestWithParam<Coordinates> {};

TEST_P(Cell, Holds) {
  const auto [style, shape, ending] = GetParam();
  const std::string name = absl::StrCat("cell.", Name(style), ".", Name(shape), ".", Name(ending));
  Record(name, "FAILED");
  const Plan plan = {style, style, shape, ending};
  Perform(plan);
  if (!HasFailure()) Record(name, CodeName(Expected(plan)));
}

INSTANTIATE_TEST_SUITE_P(Styles, Cell,
                         ::testing::Combine(::testing::ValuesIn(kStyles),
                                            ::testing::ValuesIn(kShapes),
                                            ::testing::ValuesIn(kEndings)),
                         [](const ::testing::TestParamInfo<Coordinates>& info) {
                           return absl::StrCat(Name(std::get<0>(info.param)), "_",
                                               Name(std::get<1>(info.param)), "_",
                                               Name(std::get<2>(info.param)));
                         });

// A client of one style does not know how its server is written.
class Mixed : public ::testing::TestWithParam<std::tuple<Style, Style>> {};

TEST_P(Mixed, Holds) {
  const auto [client, server] = GetParam();
  const std::string name = absl::StrCat("mixed.", Name(client), ".", Name(server));
  Record(name, "FAILED");
  int count = 0;
  for (const Shape shape : kShapes) {
    for (const Ending ending : {Ending::kOk, Ending::kCancel}) {
      SCOPED_TRACE(absl::StrCat(Name(shape), ", ", Name(ending)));
      Perform({client, server, shape, ending});
      ++count;
    }
  }
  if (!HasFailure()) Record(name, absl::StrCat(count));
}

INSTANTIATE_TEST_SUITE_P(
    Styles, Mixed, ::testing::Combine(::testing::ValuesIn(kStyles), ::testing::ValuesIn(kStyles)),
    [](const ::testing::TestParamInfo<std::tuple<Style, Style>>& info) {
      return absl::StrCat(Name(std::get<0>(info.param)), "_to_", Name(std::get<1>(info.param)));
    });

}  // namespace

// Also lets gRPC open what it opens for each of its APIs.
void WarmUpStyles() {
  for (const Style style : {Style::kCallback, Style::kAsync}) {
    (void)InProcess({style, style, Shape::kBidi, Ending::kOk}, absl::ZeroDuration());
  }
}

}  // namespace styles
}  // namespace grpcfd

int main(int argc, char** argv) {
  const int result = grpcfd::styles::RunAsPeer(argc, argv);
  if (result >= 0) return result;
  ::testing::InitGoogleMock(&argc, argv);
  if (!::testing::GTEST_FLAG(list_tests)) {
    grpcfd::testing_internal::WarmUp();
    grpcfd::styles::WarmUpStyles();
  }
  grpcfd::InstallFdLeakListener();
  return RUN_ALL_TESTS();
}
