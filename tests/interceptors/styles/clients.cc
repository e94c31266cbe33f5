// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/generic/generic_stub.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "tests/interceptors/styles/drivers.h"

namespace grpcfd {
namespace styles {
namespace {

// --- Synchronous ---

class SyncCall final : public StyleCall {
 public:
  SyncCall(const std::shared_ptr<grpc::Channel>& channel, ClientScript* script)
      : stub_(test::TestService::NewStub(channel)),
        script_(script),
        thread_([this] { script_->OnDone(Run()); }) {}
  ~SyncCall() override { thread_.join(); }

 private:
  grpc::Status Run() {
    grpc::ClientContext* const context = script_->context();
    Reply reply;
    switch (script_->shape()) {
      case Shape::kUnary: {
        grpc::Status status = stub_->Exchange(context, script_->First(), &reply);
        script_->OnReply(reply);
        return status;
      }
      case Shape::kClientStream: {
        const auto writer = stub_->Upload(context, &reply);
        WriteAll(writer.get());
        grpc::Status status = writer->Finish();
        script_->OnReply(reply);
        return status;
      }
      case Shape::kServerStream: {
        const auto reader = stub_->Download(context, script_->First());
        while (reader->Read(&reply)) script_->OnReply(reply);
        return reader->Finish();
      }
      case Shape::kBidi: {
        const auto stream = stub_->Chat(context);
        WriteAll(stream.get());
        while (stream->Read(&reply)) script_->OnReply(reply);
        return stream->Finish();
      }
    }
    return grpc::Status(grpc::StatusCode::INTERNAL, "no such shape");
  }

  template <typename Stream>
  void WriteAll(Stream* stream) {
    Request second;
    if (stream->Write(script_->First()) && script_->Second(&second)) stream->Write(second);
    stream->WritesDone();
  }

  const std::unique_ptr<test::TestService::Stub> stub_;
  ClientScript* const script_;
  std::thread thread_;
};

// --- Completion queue ---

Reply FromWire(Reply* wire) { return *wire; }
Reply FromWire(grpc::ByteBuffer* wire) {
  Reply reply;
  (void)Unpack(wire, &reply);
  return reply;
}

class AsyncCall final : public StyleCall {
 public:
  AsyncCall(const std::shared_ptr<grpc::Channel>& channel, ClientScript* script, bool generic)
      : stub_(test::TestService::NewStub(channel)),
        generic_stub_(channel),
        script_(script),
        thread_([this, generic] {
          const grpc::Status status = generic ? RunGeneric() : Run();
          queue_.Shutdown();
          void* tag = nullptr;
          bool ok = false;
          while (queue_.Next(&tag, &ok)) {
          }
          script_->OnDone(status);
        }) {}
  ~AsyncCall() override { thread_.join(); }

 private:
  grpc::Status Run() {
    grpc::ClientContext* const context = script_->context();
    Reply reply;
    grpc::Status status;
    switch (script_->shape()) {
      case Shape::kUnary: {
        const auto call = stub_->PrepareAsyncExchange(context, script_->First(), &queue_);
        call->StartCall();
        linear_.Do([&](void* tag) { call->Finish(&reply, &status, tag); });
        script_->OnReply(reply);
        return status;
      }
      case Shape::kClientStream: {
        const auto writer = stub_->PrepareAsyncUpload(context, &reply, &queue_);
        if (linear_.Do([&](void* tag) { writer->StartCall(tag); })) {
          WriteAll(writer.get(), script_->First(), [](const Request& request) { return request; });
        }
        linear_.Do([&](void* tag) { writer->Finish(&status, tag); });
        script_->OnReply(reply);
        return status;
      }
      case Shape::kServerStream: {
        const auto reader = stub_->PrepareAsyncDownload(context, script_->First(), &queue_);
        if (linear_.Do([&](void* tag) { reader->StartCall(tag); })) ReadAll<Reply>(reader.get());
        linear_.Do([&](void* tag) { reader->Finish(&status, tag); });
        return status;
      }
      case Shape::kBidi: {
        const auto stream = stub_->PrepareAsyncChat(context, &queue_);
        if (linear_.Do([&](void* tag) { stream->StartCall(tag); })) {
          WriteAll(stream.get(), script_->First(), [](const Request& request) { return request; });
          ReadAll<Reply>(stream.get());
        }
        linear_.Do([&](void* tag) { stream->Finish(&status, tag); });
        return status;
      }
    }
    return grpc::Status(grpc::StatusCode::INTERNAL, "no such shape");
  }

  grpc::Status RunGeneric() {
    grpc::Status status;
    const char* const method = Method(script_->shape());
    if (script_->shape() == Shape::kUnary) {
      const auto call = generic_stub_.PrepareUnaryCall(script_->context(), method,
                                                       Pack(script_->First()), &queue_);
      call->StartCall();
      grpc::ByteBuffer bytes;
      linear_.Do([&](void* tag) { call->Finish(&bytes, &status, tag); });
      if (status.ok()) script_->OnReply(FromWire(&bytes));
      return status;
    }
    const auto stream = generic_stub_.PrepareCall(script_->context(), method, &queue_);
    if (linear_.Do([&](void* tag) { stream->StartCall(tag); })) {
      WriteAll(stream.get(), script_->First(),
               [](const Request& request) { return Pack(request); });
      ReadAll<grpc::ByteBuffer>(stream.get());
    }
    linear_.Do([&](void* tag) { stream->Finish(&status, tag); });
    return status;
  }

  template <typename Stream, typename ToWire>
  void WriteAll(Stream* stream, const Request& first, const ToWire& to_wire) {
    const auto write = [&](const Request& request) {
      return linear_.Do([&](void* tag) { stream->Write(to_wire(request), tag); });
    };
    Request second;
    if (write(first) && RequestsStream(script_->shape()) && script_->Second(&second)) {
      write(second);
    }
    linear_.Do([&](void* tag) { stream->WritesDone(tag); });
  }
  template <typename Wire, typename Stream>
  void ReadAll(Stream* stream) {
    Wire wire;
    while (linear_.Do([&](void* tag) { stream->Read(&wire, tag); })) {
      script_->OnReply(FromWire(&wire));
    }
  }

  const std::unique_ptr<test::TestService::Stub> stub_;
  grpc::GenericStub generic_stub_;
  ClientScript* const script_;
  grpc::CompletionQueue queue_;
  LinearQueue linear_{&queue_};
  std::thread thread_;
};

// --- Callback ---

class UnaryCallbackCall final : public StyleCall {
 public:
  UnaryCallbackCall(const std::shared_ptr<grpc::Channel>& channel, ClientScript* script,
                    bool generic)
      : stub_(test::TestService::NewStub(channel)), generic_stub_(channel), script_(script) {
    if (generic) {
      sent_ = Pack(script->First());
      generic_stub_.UnaryCall(script->context(), Method(Shape::kUnary), grpc::StubOptions(), &sent_,
                              &received_, [this](const grpc::Status& status) {
                                if (status.ok()) script_->OnReply(FromWire(&received_));
                                script_->OnDone(status);
                              });
      return;
    }
    stub_->async()->Exchange(script->context(), &script->First(), &reply_,
                             [this](const grpc::Status& status) {
                               script_->OnReply(reply_);
                               script_->OnDone(status);
                             });
  }

 private:
  const std::unique_ptr<test::TestService::Stub> stub_;
  grpc::GenericStub generic_stub_;
  ClientScript* const script_;
  grpc::ByteBuffer sent_;
  grpc::ByteBuffer received_;
  Reply reply_;
};

class UploadCall final : public StyleCall, private grpc::ClientWriteReactor<Request> {
 public:
  UploadCall(const std::shared_ptr<grpc::Channel>& channel, ClientScript* script)
      : stub_(test::TestService::NewStub(channel)), script_(script) {
    stub_->async()->Upload(script->context(), &reply_, this);
    StartWrite(&script->First());
    StartCall();
  }

 private:
  void OnWriteDone(bool ok) override {
    if (ok && !had_second_ && script_->Second(&second_)) {
      had_second_ = true;
      return StartWrite(&second_);
    }
    if (ok) StartWritesDone();
  }
  void OnDone(const grpc::Status& status) override {
    script_->OnReply(reply_);
    script_->OnDone(status);
  }

  const std::unique_ptr<test::TestService::Stub> stub_;
  ClientScript* const script_;
  Reply reply_;
  Request second_;
  bool had_second_ = false;
};

class DownloadCall final : public StyleCall, private grpc::ClientReadReactor<Reply> {
 public:
  DownloadCall(const std::shared_ptr<grpc::Channel>& channel, ClientScript* script)
      : stub_(test::TestService::NewStub(channel)), script_(script) {
    stub_->async()->Download(script->context(), &script->First(), this);
    StartRead(&reply_);
    StartCall();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    script_->OnReply(reply_);
    StartRead(&reply_);
  }
  void OnDone(const grpc::Status& status) override { script_->OnDone(status); }

  const std::unique_ptr<test::TestService::Stub> stub_;
  ClientScript* const script_;
  Reply reply_;
};

void ToWire(const Request& request, Request* wire) { *wire = request; }
void ToWire(const Request& request, grpc::ByteBuffer* wire) { *wire = Pack(request); }

// Bidirectional streams, and generic calls that are not unary.
template <typename WireRequest, typename WireReply>
class BidiCall final : public StyleCall, private grpc::ClientBidiReactor<WireRequest, WireReply> {
 public:
  // `prepare` ties this reactor to its call.
  template <typename Prepare>
  BidiCall(ClientScript* script, const Prepare& prepare) : script_(script) {
    prepare(static_cast<grpc::ClientBidiReactor<WireRequest, WireReply>*>(this));
    ToWire(script->First(), &written_);
    this->StartWrite(&written_);
    this->StartRead(&read_);
    this->StartCall();
  }

 private:
  void OnWriteDone(bool ok) override {
    Request second;
    if (ok && !had_second_ && RequestsStream(script_->shape()) && script_->Second(&second)) {
      had_second_ = true;
      ToWire(second, &written_);
      return this->StartWrite(&written_);
    }
    if (ok) this->StartWritesDone();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    script_->OnReply(FromWire(&read_));
    this->StartRead(&read_);
  }
  void OnDone(const grpc::Status& status) override { script_->OnDone(status); }

  ClientScript* const script_;
  WireRequest written_;
  WireReply read_;
  bool had_second_ = false;
};

std::unique_ptr<StyleCall> StartCallbackCall(const std::shared_ptr<grpc::Channel>& channel,
                                             ClientScript* script) {
  switch (script->shape()) {
    case Shape::kUnary:
      return std::make_unique<UnaryCallbackCall>(channel, script, /*generic=*/false);
    case Shape::kClientStream:
      return std::make_unique<UploadCall>(channel, script);
    case Shape::kServerStream:
      return std::make_unique<DownloadCall>(channel, script);
    case Shape::kBidi:
      return std::make_unique<BidiCall<Request, Reply>>(script, [&](auto* reactor) {
        test::TestService::NewStub(channel)->async()->Chat(script->context(), reactor);
      });
  }
  return nullptr;
}

std::unique_ptr<StyleCall> StartGenericCallbackCall(const std::shared_ptr<grpc::Channel>& channel,
                                                    ClientScript* script) {
  if (script->shape() == Shape::kUnary) {
    return std::make_unique<UnaryCallbackCall>(channel, script, /*generic=*/true);
  }
  return std::make_unique<BidiCall<grpc::ByteBuffer, grpc::ByteBuffer>>(script, [&](auto* reactor) {
    grpc::GenericStub(channel).PrepareBidiStreamingCall(script->context(), Method(script->shape()),
                                                        grpc::StubOptions(), reactor);
  });
}

}  // namespace

std::unique_ptr<StyleCall> StartCall(Style style, const std::shared_ptr<grpc::Channel>& channel,
                                     ClientScript* script) {
  switch (style) {
    case Style::kSync:
      return std::make_unique<SyncCall>(channel, script);
    case Style::kCallback:
      return StartCallbackCall(channel, script);
    case Style::kAsync:
      return std::make_unique<AsyncCall>(channel, script, /*generic=*/false);
    case Style::kGenericAsync:
      return std::make_unique<AsyncCall>(channel, script, /*generic=*/true);
    case Style::kGenericCallback:
      return StartGenericCallbackCall(channel, script);
  }
  return nullptr;
}

}  // namespace styles
}  // namespace grpcfd
