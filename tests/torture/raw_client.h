// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A client that says whatever it is told to: sessions made by hand, frames that need not be right,
// and RPCs with metadata of its own making.
#ifndef GRPCFD_TESTS_TORTURE_RAW_CLIENT_H_
#define GRPCFD_TESTS_TORTURE_RAW_CLIENT_H_

#include <sys/socket.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fdchannel/os/cmsg.h"
#include "fdchannel/wire/call_metadata.h"
#include "fdchannel/wire/frame.h"
#include "fdchannel/wire/wire.h"
#include "tests/fdchannel/server/server_test_util.h"
#include "tests/torture/torture.h"

namespace grpcfd {
namespace torture {

struct RawSession {
  internal::Token token;
  uint64_t id = 0;
  internal::HelloStatus status = internal::HelloStatus::kRefused;
  UniqueFd socket;

  bool ok() const { return socket.valid(); }
};

inline RawSession OpenRaw(const std::string& path,
                          const internal::Token& token = internal::MintToken()) {
  RawSession session;
  session.token = token;
  internal::Answer answer =
      internal::SayHello(internal::Address(path), internal::HelloWith(session.token));
  session.status = answer.status();
  if (answer.reply.ok() && answer.fds.size() == 1) {
    session.id = answer.reply->session_id;
    session.socket = std::move(answer.fds[0]);
  }
  return session;
}

inline internal::FrameBuffer DataFrame(uint64_t call, uint32_t first_index, uint16_t count,
                                       uint32_t attempt = 0) {
  internal::Frame frame;
  frame.type = internal::FrameType::kData;
  frame.call.id = call;
  frame.call.attempt = attempt;
  frame.first_index = first_index;
  frame.fd_count = count;
  internal::FrameBuffer bytes;
  internal::EncodeFrame(frame, &bytes);
  return bytes;
}

// One message; what fails is the row's to judge. 0 or errno.
inline int SendRaw(const UniqueFd& socket, const void* data, size_t size,
                   const std::vector<int>& fds) {
  iovec vector{const_cast<void*>(data), size};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(253 * sizeof(int))> control;
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    control.fill(0);
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* const entry = CMSG_FIRSTHDR(&header);
    entry->cmsg_level = SOL_SOCKET;
    entry->cmsg_type = SCM_RIGHTS;
    entry->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(CMSG_DATA(entry), fds.data(), fds.size() * sizeof(int));
  }
  return ::sendmsg(socket.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? errno : 0;
}

inline int SendRaw(const UniqueFd& socket, const internal::FrameBuffer& frame,
                   const std::vector<int>& fds) {
  return SendRaw(socket, frame.data(), frame.size(), fds);
}

// Waits for the end of the session; the code of the CLOSE frame that came before it, if one did.
// An error if the end does not come.
inline absl::StatusOr<std::optional<internal::CloseCode>> AwaitCut(const UniqueFd& socket) {
  std::optional<internal::CloseCode> code;
  for (;;) {
    if (!internal::WaitReadable(socket)) return absl::DeadlineExceededError("the session lives on");
    char bytes[internal::kFrameSize];
    internal::ReceivedMessage message;
    const internal::IoResult io = internal::ReceiveMessage(socket, bytes, sizeof(bytes), &message);
    if (io.error == ECONNRESET) continue;  // Once; what was sent before follows.
    if (!io.ok()) return absl::ErrnoToStatus(io.error, "recvmsg");
    if (message.size == 0) return code;
    auto frame = internal::DecodeFrame(absl::MakeConstSpan(bytes, message.size));
    if (frame.ok() && frame->type == internal::FrameType::kClose) code = frame->close_code;
  }
}

inline void ExpectCut(const RawSession& session, internal::CloseCode expected) {
  auto code = AwaitCut(session.socket);
  ASSERT_TRUE(code.ok()) << code.status();
  ASSERT_TRUE(code->has_value()) << "the session ended without a CLOSE frame";
  EXPECT_EQ(expected, **code);
}

// The metadata of a call on that session.
inline void AddRawMetadata(grpc::ClientContext* context, const RawSession& session, uint64_t call,
                           uint32_t count, uint32_t attempt = 0) {
  internal::CallMetadata metadata;
  metadata.token = session.token;
  metadata.session_id = session.id;
  metadata.call_id = call;
  metadata.count = count;
  metadata.attempt = attempt;
  const auto bytes = internal::EncodeCallMetadata(metadata);
  context->AddMetadata(internal::kCallMetadataKey, std::string(bytes.data(), bytes.size()));
}

inline std::string UrlOf(const UniqueFd& fd, uint32_t index) {
  auto url = FdToUrl(fd);
  EXPECT_TRUE(url.ok()) << url.status();
  return url.ok() ? absl::StrCat(url->ToString(), "?fd=", index) : std::string();
}

// An RPC that names descriptors of a session made by hand. `stub` is of a plain channel.
inline grpc::Status CallRaw(test::TestService::Stub* stub, const RawSession& session, uint64_t call,
                            uint32_t count, const std::vector<std::string>& urls,
                            test::ExchangeReply* reply, uint64_t back = 0,
                            absl::Duration deadline = absl::Seconds(20)) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  AddRawMetadata(&context, session, call, count);
  test::ExchangeRequest request;
  for (const std::string& url : urls) request.add_urls(url);
  request.set_number(back);
  return stub->Exchange(&context, request, reply);
}

// A call without descriptors: the gRPC connection is alive.
inline grpc::Status CallPlain(test::TestService::Stub* stub) {
  grpc::ClientContext context;
  testing_internal::SetDeadline(&context, 20);
  test::ExchangeRequest request;
  request.set_command("plain");
  test::ExchangeReply reply;
  return stub->Exchange(&context, request, &reply);
}

}  // namespace torture
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_TORTURE_RAW_CLIENT_H_
