// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/alarm.h>
#include <grpcpp/generic/async_generic_service.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/interceptors/styles/drivers.h"

namespace grpcfd {
namespace styles {

void StyleServer::Start(const std::string& address, grpc::ServerBuilder* builder) {
  auto fd_server = FdServer::Create();
  ASSERT_TRUE(fd_server.ok()) << fd_server.status();
  fd_server_ = *fd_server;
  ListenOptions options;
  options.fd_server = fd_server_;
  AddListeningPort(builder, address, grpc::InsecureServerCredentials(), options);
  server_ = builder->BuildAndStart();
  ASSERT_NE(nullptr, server_);
}

namespace {

// --- Synchronous ---

class SyncScript : public LinearServerScript {
 public:
  using ReadFunction = std::function<bool(Request*)>;
  using WriteFunction = std::function<bool(const Reply&)>;

  SyncScript(Stage* stage, Shape shape, grpc::ServerContext* context, ReadFunction read,
             WriteFunction write)
      : LinearServerScript(stage, shape, /*generic=*/false),
        context_(context),
        read_(std::move(read)),
        write_(std::move(write)) {}

 protected:
  void Receive(const std::string& url, FdReceiver::FdCallback done,
               const std::function<void()>& asked) override {
    asked();
    done(fds()->RecvFd(url));
  }
  bool Read(Request* request) override { return read_(request); }
  bool Write(const Reply& reply) override { return write_(reply); }
  void AwaitRelease() override { stage()->AwaitRelease(); }
  // A synchronous handler is told only when it asks.
  void AwaitCancel() override {
    while (!context_->IsCancelled()) poll(nullptr, 0, 1);
  }

 private:
  grpc::ServerContext* const context_;
  const ReadFunction read_;
  const WriteFunction write_;
};

class SyncServer final : public StyleServer, private test::TestService::Service {
 public:
  SyncServer(const std::string& address, Stage* stage) : stage_(stage) {
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    Start(address, &builder);
  }
  ~SyncServer() override { Stop(); }

 private:
  grpc::Status Exchange(grpc::ServerContext* context, const Request* request,
                        Reply* reply) override {
    return Run(Shape::kUnary, context, Give(request), nullptr, reply);
  }
  grpc::Status Upload(grpc::ServerContext* context, grpc::ServerReader<Request>* reader,
                      Reply* reply) override {
    return Run(
        Shape::kClientStream, context, [reader](Request* read) { return reader->Read(read); },
        nullptr, reply);
  }
  grpc::Status Download(grpc::ServerContext* context, const Request* request,
                        grpc::ServerWriter<Reply>* writer) override {
    return Run(Shape::kServerStream, context, Give(request),
               [writer](const Reply& reply) { return writer->Write(reply); });
  }
  grpc::Status Chat(grpc::ServerContext* context,
                    grpc::ServerReaderWriter<Reply, Request>* stream) override {
    return Run(
        Shape::kBidi, context, [stream](Request* read) { return stream->Read(read); },
        [stream](const Reply& reply) { return stream->Write(reply); });
  }

  static SyncScript::ReadFunction Give(const Request* request) {
    return [request](Request* read) {
      *read = *request;
      return true;
    };
  }
  grpc::Status Run(Shape shape, grpc::ServerContext* context, SyncScript::ReadFunction read,
                   SyncScript::WriteFunction write, Reply* reply = nullptr) {
    SyncScript script(stage_, shape, context, std::move(read), std::move(write));
    grpc::Status status = script.Run(context);
    if (status.ok() && reply != nullptr) *reply = script.LastReply();
    return status;
  }

  Stage* const stage_;
};

// --- Completion queue ---

class AsyncScript : public LinearServerScript {
 public:
  AsyncScript(Stage* stage, Shape shape, bool generic, grpc::ServerCompletionQueue* queue,
              LinearQueue* linear, void* done_tag)
      : LinearServerScript(stage, shape, generic),
        queue_(queue),
        linear_(linear),
        done_tag_(done_tag) {}

  std::function<bool(Request*)> read;
  std::function<bool(const Reply&)> write;

 protected:
  // As a program does that wants all on the thread of its queue: an alarm brings the result there.
  void Receive(const std::string& url, FdReceiver::FdCallback done,
               const std::function<void()>& asked) override {
    absl::StatusOr<UniqueFd> result = absl::UnknownError("unset");
    AwaitAlarm([&](const std::function<void()>& ring) {
      fds()->RecvFdAsync(url, [&result, ring](absl::StatusOr<UniqueFd> fd) {
        result = std::move(fd);
        ring();
      });
      asked();
    });
    done(std::move(result));
  }
  bool Read(Request* request) override { return read(request); }
  bool Write(const Reply& reply) override { return write(reply); }
  void AwaitRelease() override {
    AwaitAlarm([this](const std::function<void()>& ring) { stage()->WhenReleased(ring); });
  }
  void AwaitCancel() override {
    linear_->Wait(done_tag_);
    done_tag_ = nullptr;
  }

 public:
  // The end of the call, unless it has been seen already.
  void AwaitDone() {
    if (done_tag_ != nullptr) linear_->Wait(done_tag_);
  }

 private:
  template <typename Arrange>
  void AwaitAlarm(const Arrange& arrange) {
    const auto alarm = std::make_shared<grpc::Alarm>();
    void* const tag = linear_->Tag();
    arrange(
        [alarm, tag, queue = queue_] { alarm->Set(queue, std::chrono::system_clock::now(), tag); });
    linear_->Wait(tag);
  }

  grpc::ServerCompletionQueue* const queue_;
  LinearQueue* const linear_;
  void* done_tag_;
};

// The program's own boundary: gRPC knows nothing of what its completion queues' threads throw.
grpc::Status RunCatching(AsyncScript* script, grpc::ServerContextBase* context) {
  try {
    return script->Run(context);
  } catch (const std::exception& error) {
    return grpc::Status(grpc::StatusCode::UNKNOWN, error.what());
  }
}

void ShutDownAndDrain(grpc::CompletionQueue* queue) {
  queue->Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) {
  }
}

class AsyncServer final : public StyleServer {
 public:
  AsyncServer(const std::string& address, Stage* stage) : stage_(stage) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    for (size_t i = 0; i < kShapes.size(); ++i) queues_.push_back(builder.AddCompletionQueue());
    Start(address, &builder);
    threads_.emplace_back([this] {
      while (Unary(queues_[0].get())) {
      }
    });
    threads_.emplace_back([this] {
      while (Upload(queues_[1].get())) {
      }
    });
    threads_.emplace_back([this] {
      while (Download(queues_[2].get())) {
      }
    });
    threads_.emplace_back([this] {
      while (Chat(queues_[3].get())) {
      }
    });
  }
  ~AsyncServer() override {
    // From here on requests for calls fail, and the threads end; a queue that is shut down takes no
    // more operations, so that comes last.
    Stop();
    for (std::thread& thread : threads_) thread.join();
    for (auto& queue : queues_) ShutDownAndDrain(queue.get());
  }

 private:
  bool Unary(grpc::ServerCompletionQueue* queue) {
    LinearQueue linear(queue);
    grpc::ServerContext context;
    void* const done = linear.Tag();
    context.AsyncNotifyWhenDone(done);
    Request request;
    grpc::ServerAsyncResponseWriter<Reply> writer(&context);
    if (!linear.Do([&](void* tag) {
          service_.RequestExchange(&context, &request, &writer, queue, queue, tag);
        })) {
      return false;
    }
    AsyncScript script(stage_, Shape::kUnary, /*generic=*/false, queue, &linear, done);
    script.read = Give(&request);
    const grpc::Status status = RunCatching(&script, &context);
    linear.Do([&](void* tag) {
      if (status.ok()) {
        writer.Finish(script.LastReply(), status, tag);
      } else {
        writer.FinishWithError(status, tag);
      }
    });
    script.AwaitDone();
    return true;
  }

  bool Upload(grpc::ServerCompletionQueue* queue) {
    LinearQueue linear(queue);
    grpc::ServerContext context;
    void* const done = linear.Tag();
    context.AsyncNotifyWhenDone(done);
    grpc::ServerAsyncReader<Reply, Request> reader(&context);
    if (!linear.Do(
            [&](void* tag) { service_.RequestUpload(&context, &reader, queue, queue, tag); })) {
      return false;
    }
    AsyncScript script(stage_, Shape::kClientStream, /*generic=*/false, queue, &linear, done);
    script.read = [&](Request* request) {
      return linear.Do([&](void* tag) { reader.Read(request, tag); });
    };
    const grpc::Status status = RunCatching(&script, &context);
    linear.Do([&](void* tag) {
      if (status.ok()) {
        reader.Finish(script.LastReply(), status, tag);
      } else {
        reader.FinishWithError(status, tag);
      }
    });
    script.AwaitDone();
    return true;
  }

  bool Download(grpc::ServerCompletionQueue* queue) {
    LinearQueue linear(queue);
    grpc::ServerContext context;
    void* const done = linear.Tag();
    context.AsyncNotifyWhenDone(done);
    Request request;
    grpc::ServerAsyncWriter<Reply> writer(&context);
    if (!linear.Do([&](void* tag) {
          service_.RequestDownload(&context, &request, &writer, queue, queue, tag);
        })) {
      return false;
    }
    AsyncScript script(stage_, Shape::kServerStream, /*generic=*/false, queue, &linear, done);
    script.read = Give(&request);
    script.write = [&](const Reply& reply) {
      return linear.Do([&](void* tag) { writer.Write(reply, tag); });
    };
    const grpc::Status status = RunCatching(&script, &context);
    linear.Do([&](void* tag) { writer.Finish(status, tag); });
    script.AwaitDone();
    return true;
  }

  bool Chat(grpc::ServerCompletionQueue* queue) {
    LinearQueue linear(queue);
    grpc::ServerContext context;
    void* const done = linear.Tag();
    context.AsyncNotifyWhenDone(done);
    grpc::ServerAsyncReaderWriter<Reply, Request> stream(&context);
    if (!linear.Do(
            [&](void* tag) { service_.RequestChat(&context, &stream, queue, queue, tag); })) {
      return false;
    }
    AsyncScript script(stage_, Shape::kBidi, /*generic=*/false, queue, &linear, done);
    script.read = [&](Request* request) {
      return linear.Do([&](void* tag) { stream.Read(request, tag); });
    };
    script.write = [&](const Reply& reply) {
      return linear.Do([&](void* tag) { stream.Write(reply, tag); });
    };
    const grpc::Status status = RunCatching(&script, &context);
    linear.Do([&](void* tag) { stream.Finish(status, tag); });
    script.AwaitDone();
    return true;
  }

  static std::function<bool(Request*)> Give(const Request* request) {
    return [request](Request* read) {
      *read = *request;
      return true;
    };
  }
  Stage* const stage_;
  test::TestService::AsyncService service_;
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> queues_;
  std::vector<std::thread> threads_;
};

class GenericAsyncServer final : public StyleServer {
 public:
  GenericAsyncServer(const std::string& address, Stage* stage) : stage_(stage) {
    grpc::ServerBuilder builder;
    builder.RegisterAsyncGenericService(&service_);
    queue_ = builder.AddCompletionQueue();
    Start(address, &builder);
    thread_ = std::thread([this] {
      while (One()) {
      }
    });
  }
  ~GenericAsyncServer() override {
    Stop();
    thread_.join();
    ShutDownAndDrain(queue_.get());
  }

 private:
  bool One() {
    LinearQueue linear(queue_.get());
    grpc::GenericServerContext context;
    void* const done = linear.Tag();
    context.AsyncNotifyWhenDone(done);
    grpc::GenericServerAsyncReaderWriter stream(&context);
    if (!linear.Do([&](void* tag) {
          service_.RequestCall(&context, &stream, queue_.get(), queue_.get(), tag);
        })) {
      return false;
    }
    const Shape shape = ShapeOfMethod(context.method());
    AsyncScript script(stage_, shape, /*generic=*/true, queue_.get(), &linear, done);
    const auto write = [&](const Reply& reply) {
      return linear.Do([&](void* tag) { stream.Write(Pack(reply), tag); });
    };
    script.read = [&](Request* request) {
      grpc::ByteBuffer bytes;
      return linear.Do([&](void* tag) { stream.Read(&bytes, tag); }) && Unpack(&bytes, request);
    };
    script.write = write;
    const grpc::Status status = RunCatching(&script, &context);
    if (status.ok() && !RepliesStream(shape)) write(script.LastReply());
    linear.Do([&](void* tag) { stream.Finish(status, tag); });
    script.AwaitDone();
    return true;
  }

  Stage* const stage_;
  grpc::AsyncGenericService service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::thread thread_;
};

// --- Callback ---

// The script as reactions, none of which waits.
class Reactions : public ServerScript {
 public:
  Reactions(grpc::CallbackServerContext* context, Stage* stage, Shape shape, bool generic)
      : ServerScript(stage, shape, generic), opened_(Open(context)) {}

 protected:
  virtual void DoRead(Request* request) = 0;
  virtual void DoWrite(const Reply& reply) = 0;
  // Finishes; with LastReply() if the status is OK.
  virtual void DoFinish(const grpc::Status& status) = 0;

  void Begin() { DoRead(&request_); }

  void DidRead(bool ok) {
    if (!ok) return DoFinish(grpc::Status(grpc::StatusCode::CANCELLED, "no request"));
    if (!opened_.ok()) return DoFinish(ToGrpcStatus(opened_));
    if (!had_first_) {
      had_first_ = true;
      First(request_, [this](const absl::Status& status) {
        if (!status.ok()) return DoFinish(ToGrpcStatus(status));
        if (RequestsStream(shape())) return DoRead(&request_);
        Answer();
      });
      return;
    }
    Second(request_, [this](const absl::Status& status) {
      if (!status.ok()) return DoFinish(ToGrpcStatus(status));
      Answer();
    });
  }

  void DidWrite(bool /*ok*/) { UnderWay(); }

  void Cancelled() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      cancelled_ = true;
      if (!awaits_cancel_) return;
      awaits_cancel_ = false;
    }
    DoFinish(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled"));
  }

 private:
  void Answer() {
    const absl::Status sent = Send();
    if (!sent.ok()) return DoFinish(ToGrpcStatus(sent));
    if (RepliesStream(shape())) return DoWrite(FirstReply());
    UnderWay();
  }

  void UnderWay() {
    // As soon as all are told, this object may be gone.
    if (stage()->ends_by_itself()) {
      Stage* const told = stage();
      Reached();
      told->WhenReleased(
          [this] { DoFinish(stage()->ending() == Ending::kError ? AsAsked() : grpc::Status::OK); });
      return;
    }
    if (open_ended()) {
      Reached();
      AwaitMissing([this](const absl::Status& status) { DoFinish(ToGrpcStatus(status)); });
      return;
    }
    Reached();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      awaits_cancel_ = !cancelled_;
      if (awaits_cancel_) return;
    }
    DoFinish(grpc::Status(grpc::StatusCode::CANCELLED, "cancelled"));
  }

  const absl::Status opened_;
  Request request_;
  bool had_first_ = false;
  std::mutex mutex_;
  bool cancelled_ = false;
  bool awaits_cancel_ = false;
};

class UnaryReactor final : public grpc::ServerUnaryReactor, private Reactions {
 public:
  UnaryReactor(grpc::CallbackServerContext* context, Stage* stage, const Request* request,
               Reply* reply)
      : Reactions(context, stage, Shape::kUnary, /*generic=*/false),
        given_(request),
        reply_(reply) {
    Begin();
  }
  void OnCancel() override { Cancelled(); }
  void OnDone() override { delete this; }

 private:
  void DoRead(Request* request) override {
    *request = *given_;
    DidRead(true);
  }
  void DoWrite(const Reply& /*reply*/) override {}
  void DoFinish(const grpc::Status& status) override {
    if (status.ok()) *reply_ = LastReply();
    Finish(status);
  }

  const Request* const given_;
  Reply* const reply_;
};

class UploadReactor final : public grpc::ServerReadReactor<Request>, private Reactions {
 public:
  UploadReactor(grpc::CallbackServerContext* context, Stage* stage, Reply* reply)
      : Reactions(context, stage, Shape::kClientStream, /*generic=*/false), reply_(reply) {
    Begin();
  }
  void OnReadDone(bool ok) override { DidRead(ok); }
  void OnCancel() override { Cancelled(); }
  void OnDone() override { delete this; }

 private:
  void DoRead(Request* request) override { StartRead(request); }
  void DoWrite(const Reply& /*reply*/) override {}
  void DoFinish(const grpc::Status& status) override {
    if (status.ok()) *reply_ = LastReply();
    Finish(status);
  }

  Reply* const reply_;
};

class DownloadReactor final : public grpc::ServerWriteReactor<Reply>, private Reactions {
 public:
  DownloadReactor(grpc::CallbackServerContext* context, Stage* stage, const Request* request)
      : Reactions(context, stage, Shape::kServerStream, /*generic=*/false), given_(request) {
    Begin();
  }
  void OnWriteDone(bool ok) override { DidWrite(ok); }
  void OnCancel() override { Cancelled(); }
  void OnDone() override { delete this; }

 private:
  void DoRead(Request* request) override {
    *request = *given_;
    DidRead(true);
  }
  void DoWrite(const Reply& reply) override {
    reply_ = reply;
    StartWrite(&reply_);
  }
  void DoFinish(const grpc::Status& status) override {
    if (!status.ok()) return Finish(status);
    reply_ = LastReply();
    StartWriteAndFinish(&reply_, grpc::WriteOptions(), status);
  }

  const Request* const given_;
  Reply reply_;
};

// What a stream of messages reads and writes.
void FromWire(Request* wire, Request* request) { std::swap(*wire, *request); }
void FromWire(grpc::ByteBuffer* wire, Request* request) { (void)Unpack(wire, request); }
void ToWire(const Reply& reply, Reply* wire) { *wire = reply; }
void ToWire(const Reply& reply, grpc::ByteBuffer* wire) { *wire = Pack(reply); }

// Bidirectional streams, and generic calls of every shape.
template <typename WireRequest, typename WireReply>
class BidiReactor final : public grpc::ServerBidiReactor<WireRequest, WireReply>,
                          private Reactions {
 public:
  BidiReactor(grpc::CallbackServerContext* context, Stage* stage, Shape shape, bool generic)
      : Reactions(context, stage, shape, generic) {
    Begin();
  }
  void OnReadDone(bool ok) override {
    if (ok) FromWire(&read_, into_);
    DidRead(ok);
  }
  void OnWriteDone(bool ok) override { DidWrite(ok); }
  void OnCancel() override { Cancelled(); }
  void OnDone() override { delete this; }

 private:
  void DoRead(Request* request) override {
    into_ = request;
    this->StartRead(&read_);
  }
  void DoWrite(const Reply& reply) override {
    ToWire(reply, &written_);
    this->StartWrite(&written_);
  }
  void DoFinish(const grpc::Status& status) override {
    if (!status.ok()) return this->Finish(status);
    ToWire(LastReply(), &written_);
    this->StartWriteAndFinish(&written_, grpc::WriteOptions(), status);
  }

  WireRequest read_;
  WireReply written_;
  Request* into_ = nullptr;
};

// gRPC catches what the method throws, before there is a reactor, and what a reaction throws,
// without a consequence: the call goes on, and nobody ends it. So this throws in the method.
void ThrowIfAsked(grpc::CallbackServerContext* context, Stage* stage, Shape shape, bool generic) {
  if (stage->ending() != Ending::kThrow) return;
  ServerScript(stage, shape, generic).AllAtOnce(context);
  throw std::runtime_error("as asked");
}

class CallbackServer final : public StyleServer, private test::TestService::CallbackService {
 public:
  CallbackServer(const std::string& address, Stage* stage) : stage_(stage) {
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    Start(address, &builder);
  }
  ~CallbackServer() override { Stop(); }

 private:
  grpc::ServerUnaryReactor* Exchange(grpc::CallbackServerContext* context, const Request* request,
                                     Reply* reply) override {
    ThrowIfAsked(context, stage_, Shape::kUnary, /*generic=*/false);
    return new UnaryReactor(context, stage_, request, reply);
  }
  grpc::ServerReadReactor<Request>* Upload(grpc::CallbackServerContext* context,
                                           Reply* reply) override {
    ThrowIfAsked(context, stage_, Shape::kClientStream, /*generic=*/false);
    return new UploadReactor(context, stage_, reply);
  }
  grpc::ServerWriteReactor<Reply>* Download(grpc::CallbackServerContext* context,
                                            const Request* request) override {
    ThrowIfAsked(context, stage_, Shape::kServerStream, /*generic=*/false);
    return new DownloadReactor(context, stage_, request);
  }
  grpc::ServerBidiReactor<Request, Reply>* Chat(grpc::CallbackServerContext* context) override {
    ThrowIfAsked(context, stage_, Shape::kBidi, /*generic=*/false);
    return new BidiReactor<Request, Reply>(context, stage_, Shape::kBidi, /*generic=*/false);
  }

  Stage* const stage_;
};

class GenericCallbackServer final : public StyleServer, private grpc::CallbackGenericService {
 public:
  GenericCallbackServer(const std::string& address, Stage* stage) : stage_(stage) {
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(this);
    Start(address, &builder);
  }
  ~GenericCallbackServer() override { Stop(); }

 private:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    const Shape shape = ShapeOfMethod(context->method());
    ThrowIfAsked(context, stage_, shape, /*generic=*/true);
    return new BidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>(context, stage_, shape,
                                                               /*generic=*/true);
  }

  Stage* const stage_;
};

}  // namespace

std::unique_ptr<StyleServer> StartServer(Style style, const std::string& address, Stage* stage) {
  switch (style) {
    case Style::kSync:
      return std::make_unique<SyncServer>(address, stage);
    case Style::kCallback:
      return std::make_unique<CallbackServer>(address, stage);
    case Style::kAsync:
      return std::make_unique<AsyncServer>(address, stage);
    case Style::kGenericAsync:
      return std::make_unique<GenericAsyncServer>(address, stage);
    case Style::kGenericCallback:
      return std::make_unique<GenericCallbackServer>(address, stage);
  }
  return nullptr;
}

}  // namespace styles
}  // namespace grpcfd
