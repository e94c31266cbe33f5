// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "tests/interceptors/styles/script.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"

namespace grpcfd {
namespace styles {
namespace {

constexpr std::chrono::seconds kPatience(20);

template <typename Values>
auto Named(const Values& values, const std::string& name) {
  for (const auto value : values) {
    if (name == Name(value)) return value;
  }
  abort();
}

}  // namespace

const char* Name(Style style) {
  static const char* const kNames[] = {"sync", "callback", "async", "generic_async",
                                       "generic_callback"};
  return kNames[static_cast<int>(style)];
}

const char* Name(Shape shape) {
  static const char* const kNames[] = {"unary", "client_stream", "server_stream", "bidi"};
  return kNames[static_cast<int>(shape)];
}

const char* Name(Ending ending) {
  static const char* const kNames[] = {"ok", "error", "cancel", "deadline", "throw", "killed"};
  return kNames[static_cast<int>(ending)];
}

Style StyleNamed(const std::string& name) { return Named(kStyles, name); }
Shape ShapeNamed(const std::string& name) { return Named(kShapes, name); }

const char* Method(Shape shape) {
  static const char* const kMethods[] = {
      "/grpcfd.test.TestService/Exchange", "/grpcfd.test.TestService/Upload",
      "/grpcfd.test.TestService/Download", "/grpcfd.test.TestService/Chat"};
  return kMethods[static_cast<int>(shape)];
}

Shape ShapeOfMethod(const std::string& method) {
  for (const Shape shape : kShapes) {
    if (method == Method(shape)) return shape;
  }
  abort();
}

UniqueFd MakeFile(const std::string& content) {
  UniqueFd fd(memfd_create("grpcfd_cell", MFD_CLOEXEC));
  EXPECT_EQ(static_cast<ssize_t>(content.size()),
            pwrite(fd.get(), content.data(), content.size(), 0));
  return fd;
}

std::string ContentOf(const absl::StatusOr<UniqueFd>& fd) {
  if (!fd.ok()) return fd.status().ToString();
  char buffer[64];
  const ssize_t got = pread(fd->get(), buffer, sizeof(buffer), 0);
  return got < 0 ? strerror(errno) : std::string(buffer, static_cast<size_t>(got));
}

int CountOpen() {
  int count = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(dir)) {
    char target[256] = {};
    if (readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1) < 0) continue;
    if (strstr(target, "memfd:grpcfd_cell") != nullptr) ++count;
  }
  closedir(dir);
  return count;
}

// --- Stage ---

UniqueFd Stage::TakeLeft() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::move(left_);
}

void Stage::Keep(std::shared_ptr<FdTransceiver> handle, UniqueFd fd) {
  const std::lock_guard<std::mutex> lock(mutex_);
  handle_ = std::move(handle);
  kept_ = std::move(fd);
}

void Stage::Reached(Report report) {
  if (on_reached) on_reached(report);
  const std::lock_guard<std::mutex> lock(mutex_);
  report_ = std::move(report);
  reached_ = true;
  changed_.notify_all();
}

void Stage::WhenReleased(std::function<void()> go_on) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!released_) {
      waiting_.push_back(std::move(go_on));
      return;
    }
  }
  go_on();
}

void Stage::AwaitRelease() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, kPatience, [this] { return released_; });
}

void Stage::Waited(absl::StatusCode code) {
  const std::lock_guard<std::mutex> lock(mutex_);
  waited_ = code;
}

bool Stage::AwaitReached(const std::function<bool()>& done) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  while (!reached_ && std::chrono::steady_clock::now() < give_up) {
    if (done()) return reached_;
    changed_.wait_for(lock, std::chrono::milliseconds(5));
  }
  return reached_;
}

void Stage::Asked() {
  const std::lock_guard<std::mutex> lock(mutex_);
  asked_ = true;
  changed_.notify_all();
}

bool Stage::AwaitAsked() {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, kPatience, [this] { return asked_; });
}

Report Stage::report() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return report_;
}

void Stage::Release() {
  std::vector<std::function<void()>> waiting;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    released_ = true;
    waiting.swap(waiting_);
    changed_.notify_all();
  }
  for (const auto& go_on : waiting) go_on();
}

std::optional<absl::StatusCode> Stage::waited() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return waited_;
}

std::shared_ptr<FdTransceiver> Stage::TakeHandle() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::move(handle_);
}

UniqueFd Stage::TakeKept() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::move(kept_);
}

// --- ServerScript ---

absl::Status ServerScript::Open(grpc::ServerContextBase* context) {
  auto fds = FromContext(context);
  if (!fds->status().ok()) return fds->status();
  fds_ = std::move(fds);
  return absl::OkStatus();
}

void ServerScript::Receive(const std::string& url, FdReceiver::FdCallback done,
                           const std::function<void()>& asked) {
  // `done` may be the end of this object.
  const std::shared_ptr<FdTransceiver> fds = fds_;
  fds->RecvFdAsync(url, std::move(done));
  asked();
}

void ServerScript::GotFirst(const Request& request, absl::StatusOr<UniqueFd> a0) {
  report_.read.push_back(ContentOf(a0));
  const absl::Status again = fds_->RecvFd(request.urls(0)).status();
  if (!absl::IsFailedPrecondition(again)) Problem(absl::StrCat("taken twice: ", again.ToString()));
  // It came with a0, so this does not wait.
  report_.read.push_back(ContentOf(fds_->DupFd(request.urls(1))));
  stage_->Keep(fds_, *std::move(a0));
}

void ServerScript::First(const Request& request, Next next) {
  Receive(
      request.urls(0),
      [this, request, next = std::move(next)](absl::StatusOr<UniqueFd> a0) {
        if (!a0.ok()) return next(a0.status());
        GotFirst(request, std::move(a0));
        next(absl::OkStatus());
      },
      [] {});
}

void ServerScript::Second(const Request& request, Next next) {
  Receive(
      request.urls(0),
      [this, next = std::move(next)](absl::StatusOr<UniqueFd> a3) {
        report_.read.push_back(ContentOf(a3));
        next(a3.status());
      },
      [stage = stage_] { stage->Asked(); });
}

absl::Status ServerScript::Send() {
  UniqueFd files[] = {MakeFile("b0"), MakeFile("b1"), stage_->TakeLeft()};
  for (UniqueFd& file : files) {
    auto url = fds_->SendFd(std::move(file));
    if (!url.ok()) return url.status();
    report_.urls.push_back(url->ToString());
  }
  return absl::OkStatus();
}

Reply ServerScript::FirstReply() const {
  Reply reply;
  reply.add_urls(report_.urls[0]);
  reply.add_urls(report_.urls[1]);
  return reply;
}

Reply ServerScript::LastReply() const {
  Reply reply = RepliesStream(shape_) ? Reply() : FirstReply();
  reply.add_urls(report_.urls[2]);
  return reply;
}

void ServerScript::Reached() { stage_->Reached(report_); }

void ServerScript::AwaitMissing(Next next) {
  // An index that was not used. An index alone does not do: the URL names a file, any.
  const std::string url = "inode://1/1?fd=7";
  Receive(
      url,
      [this, next = std::move(next)](absl::StatusOr<UniqueFd> fd) {
        stage_->Waited(fd.status().code());
        next(fd.status());
      },
      [] {});
}

void ServerScript::AllAtOnce(grpc::ServerContextBase* context) {
  absl::Status status = Open(context);
  if (status.ok()) {
    // The metadata names what was sent before the call, and that is here already.
    const auto urls = UrlsFromContext(context);
    Request request;
    if (urls.ok()) {
      for (const InodeUrl& url : *urls) request.add_urls(url.ToString());
    }
    if (request.urls_size() == 3) {
      GotFirst(request, fds_->RecvFd(request.urls(0)));
    } else {
      Problem("the metadata does not name three descriptors");
    }
    status = Send();
  }
  if (!status.ok()) Problem(status.ToString());
  Reached();
}

// --- LinearServerScript ---

grpc::Status LinearServerScript::Run(grpc::ServerContextBase* context) {
  absl::Status status = Open(context);
  const auto keep = [&status](absl::Status outcome) { status = std::move(outcome); };
  Request request;
  if (!Read(&request)) return grpc::Status(grpc::StatusCode::CANCELLED, "no request");
  if (status.ok()) First(request, keep);
  if (status.ok() && RequestsStream(shape())) {
    if (!Read(&request)) return grpc::Status(grpc::StatusCode::CANCELLED, "no second request");
    Second(request, keep);
  }
  if (status.ok()) status = Send();
  if (!status.ok()) return ToGrpcStatus(status);
  if (RepliesStream(shape())) Write(FirstReply());
  Reached();
  if (!stage()->ends_by_itself()) {
    if (!open_ended()) {
      AwaitCancel();
      return grpc::Status(grpc::StatusCode::CANCELLED, "cancelled");
    }
    AwaitMissing(keep);
    return ToGrpcStatus(status);
  }
  AwaitRelease();
  if (stage()->ending() == Ending::kThrow) throw std::runtime_error("as asked");
  if (stage()->ending() == Ending::kError) return AsAsked();
  if (RepliesStream(shape())) Write(LastReply());
  return grpc::Status::OK;
}

// --- ClientScript ---

ClientScript::ClientScript(Shape shape, grpc::ClientContext* context, UniqueFd left)
    : shape_(shape), context_(context), fds_(FromContext(context)) {
  const UniqueFd a1 = MakeFile("a1");
  first_.add_urls(fds_->SendFd(MakeFile("a0"))->ToString());
  first_.add_urls(fds_->SendFd(a1)->ToString());
  first_.add_urls(fds_->SendFd(std::move(left))->ToString());
}

void ClientScript::SendA3() { EXPECT_TRUE(fds_->SendFd(std::move(late_a3_)).ok()); }

bool ClientScript::Second(Request* request) {
  if (late_a3_.valid()) {
    request->add_urls(FdToUrl(late_a3_)->ToString());
    return true;
  }
  const auto url = fds_->SendFd(MakeFile("a3"));
  if (!url.ok()) return false;
  request->add_urls(url->ToString());
  return true;
}

void ClientScript::OnReply(const Reply& reply) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const std::string& url : reply.urls()) urls_.push_back(url);
}

void ClientScript::OnDone(const grpc::Status& status) {
  const std::lock_guard<std::mutex> lock(mutex_);
  EXPECT_FALSE(status_.has_value());
  status_ = status;
  changed_.notify_all();
}

bool ClientScript::done() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return status_.has_value();
}

grpc::Status ClientScript::AwaitDone() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!changed_.wait_for(lock, kPatience, [this] { return status_.has_value(); })) {
    return grpc::Status(grpc::StatusCode::INTERNAL, "the call does not end");
  }
  return *status_;
}

std::vector<std::string> ClientScript::urls() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return urls_;
}

absl::StatusOr<UniqueFd> Take(Style style, FdTransceiver* fds, const std::string& url) {
  if (style == Style::kSync) return fds->RecvFd(url);
  // Shared: get() may return before set_value() is done with it.
  const auto promise = std::make_shared<std::promise<absl::StatusOr<UniqueFd>>>();
  fds->RecvFdAsync(url,
                   [promise](absl::StatusOr<UniqueFd> fd) { promise->set_value(std::move(fd)); });
  return promise->get_future().get();
}

}  // namespace styles
}  // namespace grpcfd
