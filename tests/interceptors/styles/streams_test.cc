// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Streams that carry many descriptors, and reactors, loops and completion queues that must never
// wait for one.
#include <grpcpp/alarm.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/interceptors/styles/drivers.h"
#include "tests/interceptors/styles/script.h"
#include "tests/interceptors/test_service.h"

namespace grpcfd {
namespace styles {
namespace {

using testing_internal::SetDeadline;
using testing_internal::TempDir;
using testing_internal::TestServer;

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpcfd::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// What several threads work off.
template <typename T>
class WorkList {
 public:
  void Push(T item) {
    const std::lock_guard<std::mutex> lock(mutex_);
    items_.push_back(std::move(item));
    changed_.notify_one();
  }
  void Close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  // False when it is closed and empty.
  bool Pop(T* item) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return closed_ || !items_.empty(); });
    if (items_.empty()) return false;
    *item = std::move(items_.front());
    items_.pop_front();
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> items_;
  bool closed_ = false;
};

// A number that is awaited.
class Counter {
 public:
  void Add() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++value_;
    changed_.notify_all();
  }
  bool Await(int value) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return value_ >= value; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int value_ = 0;
};

std::vector<std::thread> Threads(int count, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([work, i] { work(i); });
  return threads;
}

void Join(std::vector<std::thread>* threads) {
  for (std::thread& thread : *threads) thread.join();
}

// --- Many threads ---

// One stream, eight threads that send and eight that take, at each end. What arrives under a URL is
// told by its content, and each file arrives once.
TEST(StreamsTest, ThreadsInterleaveInBothDirectionsAndNothingIsSwapped) {
  constexpr int kThreads = 8;
  constexpr int kEach = 250;
  TestServer server;
  server.service.chat = [](grpc::ServerContext* context,
                           grpc::ServerReaderWriter<Reply, Request>* stream) {
    auto fds = FromContext(context);
    if (!fds->status().ok()) return ToGrpcStatus(fds->status());
    WorkList<Request> requests;
    std::mutex write_mutex;  // gRPC writes one message at a time.
    auto workers = Threads(kThreads, [&](int) {
      Request request;
      while (requests.Pop(&request)) {
        const std::string content = ContentOf(fds->RecvFd(request.urls(0)));
        EXPECT_EQ(request.payload(), content);
        const auto url = fds->SendFd(MakeFile("answer to " + content));
        EXPECT_TRUE(url.ok()) << url.status();
        Reply reply;
        reply.add_urls(url.ok() ? url->ToString() : std::string());
        reply.set_payload("answer to " + content);
        const std::lock_guard<std::mutex> lock(write_mutex);
        stream->Write(reply);
      }
    });
    Request request;
    while (stream->Read(&request)) requests.Push(request);
    requests.Close();
    Join(&workers);
    return grpc::Status::OK;
  };

  std::mutex seen_mutex;
  std::set<std::string> seen;
  {
    const auto stub = server.Stub();
    grpc::ClientContext context;
    SetDeadline(&context, 100);
    const auto fds = FromContext(&context);
    const auto stream = stub->Chat(&context);
    std::mutex write_mutex;
    auto senders = Threads(kThreads, [&](int thread) {
      for (int i = 0; i < kEach; ++i) {
        Request request;
        request.set_payload(absl::StrCat(thread, "/", i));
        const auto url = fds->SendFd(MakeFile(request.payload()));
        ASSERT_TRUE(url.ok()) << url.status();
        request.add_urls(url->ToString());
        const std::lock_guard<std::mutex> lock(write_mutex);
        ASSERT_TRUE(stream->Write(request));
      }
    });
    WorkList<Reply> replies;
    auto takers = Threads(kThreads, [&](int) {
      Reply reply;
      while (replies.Pop(&reply)) {
        EXPECT_EQ(reply.payload(), ContentOf(fds->RecvFd(reply.urls(0))));
        const std::lock_guard<std::mutex> lock(seen_mutex);
        seen.insert(reply.payload());
      }
    });
    std::thread reader([&] {
      Reply reply;
      while (stream->Read(&reply)) replies.Push(reply);
      replies.Close();
    });
    Join(&senders);
    stream->WritesDone();
    reader.join();
    Join(&takers);
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  EXPECT_EQ(static_cast<size_t>(kThreads * kEach), seen.size());
  EXPECT_EQ(0, CountOpen());
}

// --- Reactors ---

// Answers each request with a file that says what was in the one it names. Never waits: the
// descriptor may come later than its URL. `wrap` may bring the rest to another thread.
class AnsweringReactor final : public grpc::ServerBidiReactor<Request, Reply> {
 public:
  using Wrap = std::function<FdReceiver::FdCallback(FdReceiver::FdCallback)>;

  AnsweringReactor(std::shared_ptr<FdTransceiver> fds, Counter* asked, Wrap wrap)
      : fds_(std::move(fds)), asked_(asked), wrap_(std::move(wrap)) {
    StartRead(&request_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    try {
      React();
    } catch (const std::exception& error) {
      // Here, for gRPC 1.51 drops what a reaction throws, and with it the reaction's share in the
      // call: OnDone() would never come (server_callback_handlers.h, MaybeDone()).
      Finish(grpc::Status(grpc::StatusCode::UNKNOWN, error.what()));
    }
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    StartRead(&request_);
  }
  // Whatever is under way is released by the cancellation, and ends the call: were it ended here,
  // the callback of a RecvFdAsync would come to an object that is gone.
  void OnCancel() override {}
  void OnDone() override { delete this; }

 private:
  void React() {
    if (request_.command() == "throw") throw std::runtime_error("in a reaction");
    FdReceiver::FdCallback answer = [this](absl::StatusOr<UniqueFd> fd) {
      if (!fd.ok()) return Finish(ToGrpcStatus(fd.status()));
      reply_.set_payload("answer to " + ContentOf(fd));
      const auto url = fds_->SendFd(MakeFile(reply_.payload()));
      if (!url.ok()) return Finish(ToGrpcStatus(url.status()));
      reply_.clear_urls();
      reply_.add_urls(url->ToString());
      StartWrite(&reply_);
    };
    if (wrap_) answer = wrap_(std::move(answer));
    // The answer may run before this returns, and this object may be gone then.
    Counter* const asked = asked_;
    const std::shared_ptr<FdTransceiver> fds = fds_;
    fds->RecvFdAsync(request_.urls(0), std::move(answer));
    asked->Add();
  }

  const std::shared_ptr<FdTransceiver> fds_;
  Counter* const asked_;
  const Wrap wrap_;
  Request request_;
  Reply reply_;
};

class AnsweringServer final : public StyleServer, private test::TestService::CallbackService {
 public:
  explicit AnsweringServer(AnsweringReactor::Wrap wrap = nullptr) : wrap_(std::move(wrap)) {
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    Start(address(), &builder);
  }
  ~AnsweringServer() override { Stop(); }

  std::string address() const { return "unix:" + dir_.File("socket"); }
  std::unique_ptr<test::TestService::Stub> Stub() const {
    return test::TestService::NewStub(ChannelTo(address()));
  }
  Counter* asked() { return &asked_; }

 private:
  grpc::ServerUnaryReactor* Exchange(grpc::CallbackServerContext* context,
                                     const Request* /*request*/, Reply* reply) override {
    reply->set_payload("alive");
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerBidiReactor<Request, Reply>* Chat(grpc::CallbackServerContext* context) override {
    auto fds = FromContext(context);
    EXPECT_TRUE(fds->status().ok()) << fds->status();
    return new AnsweringReactor(fds, &asked_, wrap_);
  }

  const TempDir dir_;
  const AnsweringReactor::Wrap wrap_;
  Counter asked_;
};

// Sends a file, takes the answer, sends the next: all in its reactions.
class AskingReactor final : public grpc::ClientBidiReactor<Request, Reply> {
 public:
  AskingReactor(test::TestService::Stub* stub, int rounds) : rounds_(rounds) {
    SetDeadline(&context_, 60);
    fds_ = FromContext(&context_);
    // The first one is queued before there is a call. Between the next two lines SendFd would wait
    // for the call to start.
    Prepare();
    stub->async()->Chat(&context_, this);
    StartWrite(&request_);
    StartCall();
  }
  grpc::Status Await() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return status_;
  }

 private:
  void Prepare() {
    request_.set_payload(absl::StrCat("round ", round_));
    request_.clear_urls();
    const auto url = fds_->SendFd(MakeFile(request_.payload()));
    EXPECT_TRUE(url.ok()) << url.status();
    request_.add_urls(url.ok() ? url->ToString() : "");
  }
  void OnWriteDone(bool ok) override {
    if (ok) StartRead(&reply_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    // While it waits there is no operation of gRPC's under way that would keep the call.
    AddHold();
    fds_->RecvFdAsync(reply_.urls(0), [this](absl::StatusOr<UniqueFd> fd) {
      EXPECT_EQ(absl::StrCat("answer to round ", round_), ContentOf(fd));
      if (++round_ < rounds_) {
        Prepare();
        StartWrite(&request_);
      } else {
        StartWritesDone();
      }
      RemoveHold();
    });
  }
  void OnDone(const grpc::Status& status) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_EQ(rounds_, round_);
    status_ = status;
    done_ = true;
    changed_.notify_all();
  }

  const int rounds_;
  int round_ = 0;
  grpc::ClientContext context_;
  std::shared_ptr<FdTransceiver> fds_;
  Request request_;
  Reply reply_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  grpc::Status status_;
};

TEST(StreamsTest, ReactorsAskAndAnswerEachOther) {
  AnsweringServer server;
  {
    const auto stub = server.Stub();
    std::vector<std::unique_ptr<AskingReactor>> calls;
    for (int i = 0; i < 4; ++i) calls.push_back(std::make_unique<AskingReactor>(stub.get(), 50));
    for (const auto& call : calls) {
      const grpc::Status status = call->Await();
      EXPECT_TRUE(status.ok()) << status.error_message();
    }
  }
  EXPECT_EQ(0, CountOpen());
}

// A stream whose first message names a file that has not been sent yet.
struct LateCall {
  LateCall(test::TestService::Stub* stub, int number)
      : content(absl::StrCat("late ", number)), file(MakeFile(content)) {
    SetDeadline(&context, 60);
    fds = FromContext(&context);
    stream = stub->Chat(&context);
    Request request;
    request.add_urls(FdToUrl(file)->ToString());
    EXPECT_TRUE(stream->Write(request));
  }
  // Sends it, and reads the answer.
  std::string Finish() {
    EXPECT_TRUE(fds->SendFd(std::move(file)).ok());
    Reply reply;
    EXPECT_TRUE(stream->Read(&reply));
    stream->WritesDone();
    EXPECT_TRUE(stream->Finish().ok());
    return reply.urls_size() == 1 ? reply.urls(0) : std::string();
  }

  const std::string content;
  UniqueFd file;
  grpc::ClientContext context;
  std::shared_ptr<FdTransceiver> fds;
  std::unique_ptr<grpc::ClientReaderWriter<Request, Reply>> stream;
};

// More calls wait than gRPC has threads, and a plain call is served all the same.
TEST(StreamsTest, WaitingReactorsHoldNoThread) {
  constexpr int kWaiting = 48;
  AnsweringServer server;
  {
    const auto stub = server.Stub();
    std::vector<std::unique_ptr<LateCall>> calls;
    for (int i = 0; i < kWaiting; ++i) calls.push_back(std::make_unique<LateCall>(stub.get(), i));
    ASSERT_TRUE(server.asked()->Await(kWaiting));
    grpc::ClientContext context;
    SetDeadline(&context, 20);
    Reply reply;
    const grpc::Status status = stub->Exchange(&context, Request(), &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ("alive", reply.payload());
    for (const auto& call : calls) {
      EXPECT_EQ("answer to " + call->content, ContentOf(call->fds->RecvFd(call->Finish())));
    }
  }
  EXPECT_EQ(0, CountOpen());
}

TEST(StreamsTest, AReactionThatThrowsLeavesNothingIfItCatches) {
  AnsweringServer server;
  Pipe left;
  {
    const auto stub = server.Stub();
    grpc::ClientContext context;
    SetDeadline(&context, 60);
    const auto fds = FromContext(&context);
    Request request;
    request.set_command("throw");
    request.add_urls(fds->SendFd(std::move(left.write))->ToString());
    const auto stream = stub->Chat(&context);
    EXPECT_TRUE(stream->Write(request));
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(grpc::StatusCode::UNKNOWN, status.error_code());
    EXPECT_EQ("in a reaction", status.error_message());
  }
  EXPECT_TRUE(AwaitHangUp(left.read));
}

// --- A completion queue's loop ---

// One thread, one queue, any number of calls: each event belongs to one of them.
class LoopServer final : public StyleServer {
 public:
  LoopServer() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    queue_ = builder.AddCompletionQueue();
    Start(address(), &builder);
    new ChatCall(this);
    thread_ = std::thread([this] {
      void* tag = nullptr;
      bool ok = false;
      while (queue_->Next(&tag, &ok)) static_cast<ChatCall*>(tag)->Proceed(ok);
    });
  }
  ~LoopServer() override {
    Stop();
    queue_->Shutdown();
    thread_.join();
  }

  std::string address() const { return "unix:" + dir_.File("socket"); }
  Counter* asked() { return &asked_; }

 private:
  // Has one operation under way at any time, so that the object itself is the tag.
  class ChatCall {
   public:
    explicit ChatCall(LoopServer* server) : server_(server), stream_(&context_) {
      server_->service_.RequestChat(&context_, &stream_, queue(), queue(), this);
    }
    void Proceed(bool ok) {
      switch (state_) {
        case State::kRequested: {
          if (!ok) return delete this;  // The server is going.
          new ChatCall(server_);
          auto fds = FromContext(&context_);
          EXPECT_TRUE(fds->status().ok()) << fds->status();
          if (!fds->status().ok()) return Finish(ToGrpcStatus(fds->status()));
          fds_ = std::move(fds);
          return Read();
        }
        case State::kReading:
          if (!ok) return Finish(grpc::Status::OK);
          state_ = State::kReceiving;
          fds_->RecvFdAsync(request_.urls(0), [this](absl::StatusOr<UniqueFd> fd) {
            // Back to the loop's thread.
            received_ = std::move(fd);
            alarm_.Set(queue(), std::chrono::system_clock::now(), this);
          });
          return server_->asked_.Add();
        case State::kReceiving: {
          if (!received_.ok()) return Finish(ToGrpcStatus(received_.status()));
          Reply reply;
          reply.set_payload("answer to " + ContentOf(received_));
          const auto url = fds_->SendFd(MakeFile(reply.payload()));
          if (!url.ok()) return Finish(ToGrpcStatus(url.status()));
          reply.add_urls(url->ToString());
          received_ = absl::UnknownError("none");
          state_ = State::kWriting;
          return stream_.Write(reply, this);
        }
        case State::kWriting:
          return Read();
        case State::kFinishing:
          delete this;
      }
    }

   private:
    enum class State { kRequested, kReading, kReceiving, kWriting, kFinishing };
    grpc::ServerCompletionQueue* queue() { return server_->queue_.get(); }
    void Read() {
      state_ = State::kReading;
      stream_.Read(&request_, this);
    }
    void Finish(const grpc::Status& status) {
      state_ = State::kFinishing;
      stream_.Finish(status, this);
    }

    LoopServer* const server_;
    State state_ = State::kRequested;
    grpc::ServerContext context_;
    grpc::ServerAsyncReaderWriter<Reply, Request> stream_;
    std::shared_ptr<FdTransceiver> fds_;
    Request request_;
    absl::StatusOr<UniqueFd> received_ = absl::UnknownError("none");
    grpc::Alarm alarm_;
  };

  const TempDir dir_;
  test::TestService::AsyncService service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  Counter asked_;
  std::thread thread_;
};

TEST(StreamsTest, TheLoopOfACompletionQueueServesOthersWhileCallsWait) {
  LoopServer server;
  {
    const auto stub = test::TestService::NewStub(ChannelTo(server.address()));
    std::vector<std::unique_ptr<LateCall>> calls;
    for (int i = 0; i < 8; ++i) calls.push_back(std::make_unique<LateCall>(stub.get(), i));
    ASSERT_TRUE(server.asked()->Await(8));
    // The last come first: none of them is in another's way.
    for (auto call = calls.rbegin(); call != calls.rend(); ++call) {
      EXPECT_EQ("answer to " + (*call)->content,
                ContentOf((*call)->fds->RecvFd((*call)->Finish())));
    }
  }
  EXPECT_EQ(0, CountOpen());
}

// --- The program's own loop ---

// An epoll(7) loop with the queue, a timer and a way out, as a program might have it.
class EpollLoop {
 public:
  EpollLoop() {
    auto queue = EventQueue::Create();
    EXPECT_TRUE(queue.ok()) << queue.status();
    queue_ = *std::move(queue);
    itimerspec every = {};
    every.it_interval.tv_nsec = every.it_value.tv_nsec = 1000000;
    EXPECT_EQ(0, timerfd_settime(timer_.get(), 0, &every, nullptr));
    for (const int fd : {queue_->fd(), timer_.get(), stop_.get()}) {
      epoll_event event = {};
      event.events = EPOLLIN;
      event.data.fd = fd;
      EXPECT_EQ(0, epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event));
    }
  }

  EventQueue* queue() { return queue_.get(); }
  int ticks() const { return ticks_; }
  void Stop() {
    const uint64_t one = 1;
    EXPECT_EQ(static_cast<ssize_t>(sizeof(one)), write(stop_.get(), &one, sizeof(one)));
  }
  // Until Stop(), or until `done` says so after an event.
  void Run(const std::function<bool()>& done) {
    while (!done()) {
      epoll_event events[4];
      const int count = epoll_wait(epoll_.get(), events, 4, 20000);
      ASSERT_GT(count, 0);
      for (int i = 0; i < count; ++i) {
        if (events[i].data.fd == stop_.get()) return;
        if (events[i].data.fd == queue_->fd()) queue_->Process();
        if (events[i].data.fd == timer_.get()) {
          uint64_t expired = 0;
          EXPECT_GT(read(timer_.get(), &expired, sizeof(expired)), 0);
          ++ticks_;
        }
      }
    }
  }

 private:
  const UniqueFd epoll_{epoll_create1(EPOLL_CLOEXEC)};
  const UniqueFd timer_{timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
  const UniqueFd stop_{eventfd(0, EFD_CLOEXEC)};
  std::unique_ptr<EventQueue> queue_;
  int ticks_ = 0;
};

TEST(StreamsTest, AnEpollLoopTakesDescriptorsAtBothEnds) {
  constexpr int kCalls = 16;
  EpollLoop server_loop;
  std::thread server_thread;
  {
    std::thread::id loop_thread;
    std::atomic<int> elsewhere{0};
    AnsweringServer server([&](FdReceiver::FdCallback callback) {
      return server_loop.queue()->Wrap(
          [&, callback = std::move(callback)](absl::StatusOr<UniqueFd> fd) mutable {
            if (std::this_thread::get_id() != loop_thread) ++elsewhere;
            callback(std::move(fd));
          });
    });
    server_thread = std::thread([&] { server_loop.Run([] { return false; }); });
    loop_thread = server_thread.get_id();

    EpollLoop loop;
    const auto stub = server.Stub();
    std::vector<std::unique_ptr<LateCall>> calls;
    int taken = 0;
    for (int i = 0; i < kCalls; ++i) calls.push_back(std::make_unique<LateCall>(stub.get(), i));
    ASSERT_TRUE(server.asked()->Await(kCalls));
    for (const auto& call : calls) {
      call->fds->RecvFdAsync(
          call->Finish(), loop.queue()->Wrap([&, call = call.get()](absl::StatusOr<UniqueFd> fd) {
            EXPECT_EQ("answer to " + call->content, ContentOf(fd));
            ++taken;  // On this thread, so no lock.
          }));
      EXPECT_LE(taken, 0);
    }
    loop.Run([&] { return taken == kCalls && loop.ticks() > 2; });
    EXPECT_EQ(kCalls, taken);
    EXPECT_EQ(0, elsewhere.load());
  }
  server_loop.Stop();
  server_thread.join();
  EXPECT_EQ(0, CountOpen());
}

}  // namespace
}  // namespace styles
}  // namespace grpcfd
