// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The listener against a client that was written from fdchannel/wire/PROTOCOL.md alone, in Python.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "tests/fdchannel/server/server_test_util.h"

extern char** environ;

namespace grpcfd {
namespace internal {
namespace {

using ::testing::SizeIs;
using ::testing::StartsWith;

// One run of fdchannel_client.py. Its standard input is held open, and with it the session, until
// Finish().
class PythonClient {
 public:
  explicit PythonClient(const std::vector<std::string>& arguments) {
    int in[2], out[2];
    EXPECT_EQ(::pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    // -B: no __pycache__ beside the sources.
    std::vector<std::string> words = {GRPCFD_PYTHON, "-B", GRPCFD_PYTHON_CLIENT};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(&word[0]);
    argv.push_back(nullptr);
    EXPECT_EQ(::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
    stdin_.Reset(in[1]);
    stdout_.Reset(out[0]);
  }
  ~PythonClient() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }

  // The next line; empty at the end of the output, or if none comes.
  std::string Line() {
    for (;;) {
      const size_t end = text_.find('\n');
      if (end != std::string::npos) {
        const std::string line = text_.substr(0, end);
        text_.erase(0, end + 1);
        return line;
      }
      if (!WaitReadable(stdout_)) return "";
      char buffer[4096];
      const ssize_t got = ::read(stdout_.get(), buffer, sizeof(buffer));
      if (got <= 0) return "";
      text_.append(buffer, static_cast<size_t>(got));
    }
  }

  // The next line without its first word, which must be this one.
  std::string Expect(const std::string& word) {
    const std::string line = Line();
    EXPECT_THAT(line, StartsWith(word));
    return line.size() > word.size() ? line.substr(word.size() + 1) : "";
  }

  void Write(const std::string& text) {
    EXPECT_EQ(::write(stdin_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  // Lets it end, and returns its exit status.
  int Finish() {
    stdin_.Reset();
    int status = -1;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  UniqueFd stdin_;
  UniqueFd stdout_;
  std::string text_;
};

class PythonClientTest : public ::testing::Test {
 protected:
  PythonClientTest() : path_(dir_.File("s")), server_(path_) { server_.Start(); }

  // Reads what every run opens with.
  static CallMetadata ReadSession(PythonClient* client) {
    CallMetadata metadata;
    EXPECT_TRUE(absl::SimpleAtoi(client->Expect("session"), &metadata.session_id));
    const std::string token = absl::HexStringToBytes(client->Expect("token"));
    EXPECT_THAT(token, SizeIs(kTokenSize));
    std::array<char, kTokenSize> bytes{};
    std::copy_n(token.begin(), std::min(token.size(), kTokenSize), bytes.begin());
    metadata.token = Token(bytes);
    return metadata;
  }

  const TempDir dir_;
  const std::string path_;
  TestServer server_;
};

TEST_F(PythonClientTest, HelloOpensASession) {
  PythonClient client({path_, "hello"});
  const CallMetadata metadata = ReadSession(&client);
  auto session = server_.core().FindSession(metadata.token, metadata.session_id);
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ((*session)->peer(), absl::StrCat("pid ", client.pid(), ", uid ", ::geteuid()));
  EXPECT_EQ((*session)->remote_limits().max_fds_per_call, 16u);
  EXPECT_EQ((*session)->remote_limits().window, 64u);
  session->reset();
  client.Expect("done");
  EXPECT_EQ(client.Finish(), 0);
  EXPECT_TRUE(Eventually([&] { return server_.core().session_count() == 0; }));
}

TEST_F(PythonClientTest, ServerReceivesWhatItSends) {
  constexpr int kFiles = 16;  // As many as a call may have.
  std::vector<std::string> arguments = {path_, "send", "42"};
  for (int i = 0; i < kFiles; ++i) {
    const std::string name = dir_.File(absl::StrCat("file", i));
    std::ofstream(name) << "content " << i;
    arguments.push_back(name);
  }
  PythonClient client(arguments);
  const CallMetadata said = ReadSession(&client);
  for (int i = 0; i < kFiles; ++i) {
    EXPECT_EQ(client.Expect("sent"), absl::StrCat(i, " ", dir_.File(absl::StrCat("file", i))));
  }
  const std::string entry = absl::HexStringToBytes(client.Expect("metadata"));
  auto metadata = DecodeCallMetadata(Bytes(entry));
  ASSERT_TRUE(metadata.ok()) << metadata.status();
  EXPECT_EQ(metadata->token, said.token);
  EXPECT_EQ(metadata->session_id, said.session_id);
  EXPECT_EQ(metadata->call_id, 42u);
  EXPECT_EQ(metadata->count, static_cast<uint32_t>(kFiles));

  auto call = server_.Serve(*metadata);
  ASSERT_NE(call, nullptr);
  for (int i = 0; i < kFiles; ++i) {
    // What the URL in a message would say.
    const UniqueFd own(::open(dir_.File(absl::StrCat("file", i)).c_str(), O_RDONLY | O_CLOEXEC));
    auto dev_ino = FdToDevIno(own);
    ASSERT_TRUE(dev_ino.ok()) << dev_ino.status();
    auto fd = call->RecvFd(InodeUrl(*dev_ino, static_cast<uint32_t>(i)));
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Content(*fd), absl::StrCat("content ", i));
    EXPECT_TRUE(IsCloseOnExec(*fd));
  }
  call.reset();
  client.Expect("done");
  EXPECT_EQ(client.Finish(), 0);
}

TEST_F(PythonClientTest, ServerKnowsWhatAForwarderLeftOut) {
  const std::string name = dir_.File("file");
  std::ofstream(name) << "content";
  PythonClient client({path_, "send", "42", "-", name, "-", name});
  ReadSession(&client);
  EXPECT_EQ(client.Expect("sent"), absl::StrCat("1 ", name));
  EXPECT_EQ(client.Expect("sent"), absl::StrCat("3 ", name));
  const std::string entry = absl::HexStringToBytes(client.Expect("metadata"));
  auto metadata = DecodeCallMetadata(Bytes(entry));
  ASSERT_TRUE(metadata.ok()) << metadata.status();
  EXPECT_EQ(metadata->count, 4u);
  EXPECT_EQ(metadata->holes, 2u);
  auto call = server_.Serve(*metadata);
  ASSERT_NE(call, nullptr);
  const UniqueFd own(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  const auto dev_ino = FdToDevIno(own);
  ASSERT_TRUE(dev_ino.ok()) << dev_ino.status();
  EXPECT_EQ(Content(*call->RecvFd(InodeUrl(*dev_ino, 3))), "content");
  EXPECT_EQ(call->RecvFd(InodeUrl(*dev_ino, 2)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Content(*call->RecvFd(InodeUrl(*dev_ino, 1))), "content");
  call.reset();
  client.Expect("done");
  EXPECT_EQ(client.Finish(), 0);
}

TEST_F(PythonClientTest, ServerSharesWhatItRegisters) {
  std::vector<std::string> arguments = {path_, "share"};
  for (int i = 0; i < 3; ++i) {
    arguments.push_back(dir_.File(absl::StrCat("file", i)));
    std::ofstream(arguments.back()) << "content " << i;
  }
  PythonClient client(arguments);
  ReadSession(&client);
  for (int i = 0; i < 3; ++i) client.Expect("shared");
  const std::string entry = absl::HexStringToBytes(client.Expect("metadata"));
  auto metadata = DecodeCallMetadata(Bytes(entry));
  ASSERT_TRUE(metadata.ok()) << metadata.status();
  auto call = server_.Serve(*metadata);
  ASSERT_NE(call, nullptr);
  const auto shared = [&](uint32_t index) {
    const UniqueFd own(
        ::open(dir_.File(absl::StrCat("file", index)).c_str(), O_RDONLY | O_CLOEXEC));
    auto dev_ino = FdToDevIno(own);
    EXPECT_TRUE(dev_ino.ok()) << dev_ino.status();
    return call->RecvFd(InodeUrl::OfSession(*dev_ino, index));
  };
  for (int round = 0; round < 2; ++round) {
    for (uint32_t i = 0; i < 3; ++i) {
      auto fd = shared(i);
      ASSERT_TRUE(fd.ok()) << fd.status();
      EXPECT_EQ(Content(*fd), absl::StrCat("content ", i));
    }
  }
  client.Write("go on\n");
  client.Expect("withdrawn");
  EXPECT_EQ(shared(0).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(shared(1).ok());
  client.Expect("done");
  EXPECT_EQ(client.Finish(), 0);
}

TEST_F(PythonClientTest, ClientReceivesWhatTheServerSends) {
  // More than the client's window of 64: it must send CREDIT for the server to get on.
  constexpr int kFiles = 100;
  PythonClient client({path_, "recv", absl::StrCat(kFiles)});
  CallMetadata metadata = ReadSession(&client);
  metadata.call_id = 7;
  metadata.attempt = 1;
  ServerCall::Config config;
  config.server_streams = true;
  config.deadline = absl::Now() + kPatience;
  auto call = server_.Serve(metadata, config);
  ASSERT_NE(call, nullptr);
  for (int i = 0; i < kFiles; ++i) {
    auto url = call->SendFd(MakeFile(absl::StrCat("content ", i)));
    ASSERT_TRUE(url.ok()) << i << ": " << url.status();
    EXPECT_EQ(client.Expect("received"),
              absl::StrCat("7 1 ", i, " ", absl::BytesToHexString(absl::StrCat("content ", i))));
  }
  client.Expect("done");
  EXPECT_EQ(client.Finish(), 0);
}

TEST_F(PythonClientTest, ClientIsToldThatTheServerShutsDown) {
  PythonClient client({path_, "recv", "1"});
  ReadSession(&client);
  server_.core().ShutDown();
  EXPECT_THAT(client.Expect("error"), StartsWith("EOFError the server cut the session, code 3"));
  EXPECT_EQ(client.Finish(), 1);

  PythonClient late({path_, "hello"});
  EXPECT_THAT(late.Expect("error"), StartsWith("ProtocolError the server answered SHUTTING_DOWN"));
  EXPECT_EQ(late.Finish(), 1);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
