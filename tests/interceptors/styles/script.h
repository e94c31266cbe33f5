// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// What every cell of the table "API style x call shape x ending" does, whatever the style: the two
// scripts that a client's driver and a server's driver follow.
//
//   client                                            server
//   before the call: a0, a1, a2                   --> takes a0 (asking again must fail), copies a1,
//                                                     leaves a2
//   while it streams: a3                          --> takes a3
//                                                 <-- sends b0, b1, b2, in the first reply if it
//                                                     streams
//                    ... "reached": both directions are under way ...
//   takes b0, copies b1, leaves b2
//                    ... the ending ...
//
// a0, a1, a3, b0 and b1 are memory files whose content says which they are. a2 and b2, which nobody
// takes, are write ends of pipes: the test holds the read ends, and the kernel reports a hang-up
// there when the last copy is closed, in whatever process, and also if it is still on its way.
#ifndef GRPCFD_TESTS_INTERCEPTORS_STYLES_SCRIPT_H_
#define GRPCFD_TESTS_INTERCEPTORS_STYLES_SCRIPT_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/byte_buffer.h>

#include <array>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "grpcfd/grpcfd.h"
#include "test.grpc.pb.h"
#include "tests/pipe.h"

namespace grpcfd {
namespace styles {

using testing_internal::AwaitHangUp;
using testing_internal::Pipe;

using Request = test::ExchangeRequest;
using Reply = test::ExchangeReply;

enum class Style { kSync, kCallback, kAsync, kGenericAsync, kGenericCallback };
enum class Shape { kUnary, kClientStream, kServerStream, kBidi };
enum class Ending { kOk, kError, kCancel, kDeadline, kThrow, kKilled };

inline constexpr std::array<Style, 5> kStyles = {Style::kSync, Style::kCallback, Style::kAsync,
                                                 Style::kGenericAsync, Style::kGenericCallback};
inline constexpr std::array<Shape, 4> kShapes = {Shape::kUnary, Shape::kClientStream,
                                                 Shape::kServerStream, Shape::kBidi};
inline constexpr std::array<Ending, 6> kEndings = {Ending::kOk,     Ending::kError,
                                                   Ending::kCancel, Ending::kDeadline,
                                                   Ending::kThrow,  Ending::kKilled};

const char* Name(Style style);
const char* Name(Shape shape);
const char* Name(Ending ending);
// The value with this name; ends the process if there is none.
Style StyleNamed(const std::string& name);
Shape ShapeNamed(const std::string& name);

inline bool RequestsStream(Shape shape) {
  return shape == Shape::kClientStream || shape == Shape::kBidi;
}
inline bool RepliesStream(Shape shape) {
  return shape == Shape::kServerStream || shape == Shape::kBidi;
}
inline bool IsGeneric(Style style) {
  return style == Style::kGenericAsync || style == Style::kGenericCallback;
}

// The method of the tests' service that has this shape, and back.
const char* Method(Shape shape);
Shape ShapeOfMethod(const std::string& method);

// Messages of generic calls.
template <typename Message>
grpc::ByteBuffer Pack(const Message& message) {
  grpc::ByteBuffer bytes;
  bool owned = false;
  (void)grpc::SerializationTraits<Message>::Serialize(message, &bytes, &owned);
  return bytes;
}
template <typename Message>
bool Unpack(grpc::ByteBuffer* bytes, Message* message) {
  return grpc::SerializationTraits<Message>::Deserialize(bytes, message).ok();
}

// A memory file with `content`, by whose name CountOpen() knows it.
UniqueFd MakeFile(const std::string& content);
std::string ContentOf(const absl::StatusOr<UniqueFd>& fd);  // Or the error.
// How many such files this process has open.
int CountOpen();

// What the server's side has seen when both directions are under way.
struct Report {
  std::vector<std::string> read;      // The contents of a0, a1, and of a3 if requests stream.
  std::vector<std::string> urls;      // Of b0, b1, b2.
  std::vector<std::string> problems;  // Whatever went wrong; empty.
};

// Where the server's side of a call and the test meet. Thread-safe.
class Stage {
 public:
  // `left` is sent as b2.
  Stage(Ending ending, UniqueFd left) : ending_(ending), left_(std::move(left)) {}

  Ending ending() const { return ending_; }
  // Whether the handler ends the call by itself once it is released.
  bool ends_by_itself() const {
    return ending_ == Ending::kOk || ending_ == Ending::kError || ending_ == Ending::kThrow;
  }

  // --- For the server's side ---
  // Called when reached, if set; before any call.
  std::function<void(const Report&)> on_reached;
  UniqueFd TakeLeft();
  // What the handler keeps beyond its call.
  void Keep(std::shared_ptr<FdTransceiver> handle, UniqueFd fd);
  void Reached(Report report);
  // The handler has asked for a3.
  void Asked();
  // Calls `go_on` when the test says so: at once or later, on its thread.
  void WhenReleased(std::function<void()> go_on);
  void AwaitRelease();
  // How the wait for a descriptor that never comes was ended.
  void Waited(absl::StatusCode code);

  // --- For the test ---
  // False if `done` says so first. Asks it now and then.
  bool AwaitReached(const std::function<bool()>& done);
  bool AwaitAsked();
  Report report();
  void Release();
  std::optional<absl::StatusCode> waited();
  // For the next attempt: forgets what was kept.
  std::shared_ptr<FdTransceiver> TakeHandle();
  UniqueFd TakeKept();

 private:
  const Ending ending_;
  std::mutex mutex_;
  std::condition_variable changed_;
  UniqueFd left_;
  bool asked_ = false;
  bool reached_ = false;
  bool released_ = false;
  Report report_;
  std::vector<std::function<void()>> waiting_;
  std::optional<absl::StatusCode> waited_;
  std::shared_ptr<FdTransceiver> handle_;
  UniqueFd kept_;
};

// The handler's side. One for each call; its methods are called one after another.
class ServerScript {
 public:
  using Next = std::function<void(absl::Status)>;

  ServerScript(Stage* stage, Shape shape, bool generic)
      : stage_(stage), shape_(shape), generic_(generic) {}
  virtual ~ServerScript() = default;

  Stage* stage() const { return stage_; }
  Shape shape() const { return shape_; }
  // Whether waiting for a descriptor that was never sent is more than NOT_FOUND at once: grpcfd
  // takes a generic call for a stream in both directions.
  bool open_ended() const { return generic_ || RequestsStream(shape_); }

  absl::Status Open(grpc::ServerContextBase* context);
  void First(const Request& request, Next next);
  void Second(const Request& request, Next next);
  // Sends b0, b1 and b2. The replies name them: the first one b0 and b1 if replies stream, the last
  // one all otherwise, and b2 if they do.
  absl::Status Send();
  Reply FirstReply() const;
  Reply LastReply() const;
  void Reached();
  // Waits for a descriptor that never comes.
  void AwaitMissing(Next next);
  // All that can be done where the handler must not wait and throws at once.
  void AllAtOnce(grpc::ServerContextBase* context);

  static grpc::Status AsAsked() { return grpc::Status(grpc::StatusCode::ABORTED, "as asked"); }

 protected:
  // As the style has it; unless overridden with RecvFdAsync. Says when it has asked, or is about
  // to.
  virtual void Receive(const std::string& url, FdReceiver::FdCallback done,
                       const std::function<void()>& asked);

  FdTransceiver* fds() const { return fds_.get(); }

 private:
  void Problem(const std::string& text) { report_.problems.push_back(text); }
  void GotFirst(const Request& request, absl::StatusOr<UniqueFd> a0);

  Stage* const stage_;
  const Shape shape_;
  const bool generic_;
  std::shared_ptr<FdTransceiver> fds_;
  Report report_;
};

// The same for handlers that may wait, on a thread of their own: synchronous ones, and those that
// drive a completion queue.
class LinearServerScript : public ServerScript {
 public:
  using ServerScript::ServerScript;

  // Throws if the ending is kThrow.
  grpc::Status Run(grpc::ServerContextBase* context);

 protected:
  virtual bool Read(Request* request) = 0;
  virtual bool Write(const Reply& reply) = 0;
  virtual void AwaitRelease() = 0;
  virtual void AwaitCancel() = 0;
};

// The client's side of one call.
class ClientScript {
 public:
  // Queues a0, a1 and a2, which is `left`.
  ClientScript(Shape shape, grpc::ClientContext* context, UniqueFd left);

  Shape shape() const { return shape_; }
  grpc::ClientContext* context() const { return context_; }
  const std::shared_ptr<FdTransceiver>& fds() const { return fds_; }

  const Request& First() const { return first_; }
  // Sends a3, while the call runs. False if that could not be done: the call is over.
  bool Second(Request* request);
  // Instead, Second() only names a3, and SendA3() sends it.
  void NameA3BeforeItIsSent() { late_a3_ = MakeFile("a3"); }
  void SendA3();
  void OnReply(const Reply& reply);
  void OnDone(const grpc::Status& status);

  // --- For the test ---
  bool done();
  grpc::Status AwaitDone();
  // The URLs that came in all replies.
  std::vector<std::string> urls();

 private:
  const Shape shape_;
  grpc::ClientContext* const context_;
  const std::shared_ptr<FdTransceiver> fds_;
  Request first_;
  UniqueFd late_a3_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> urls_;
  std::optional<grpc::Status> status_;
};

// Takes a descriptor as a program of this style would, and waits for it.
absl::StatusOr<UniqueFd> Take(Style style, FdTransceiver* fds, const std::string& url);

}  // namespace styles
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_STYLES_SCRIPT_H_
