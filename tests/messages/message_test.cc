// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "grpcfd/message.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "grpcfd/testing/fake_fd_pair.h"
#include "grpcfd/testing/inode_holders.h"
#include "grpcfd/testing/mock_fd_transceiver.h"
#include "grpcfd/testing/same_file.h"
#include "messages/walk.h"
#include "tests/fdchannel/fd_test_util.h"
#include "typed.pb.h"

namespace grpcfd {
namespace {

using google::protobuf::util::MessageDifferencer;
using internal::Content;
using internal::MakeFile;
using test::BadMarks;
using test::Image;
using test::Paths;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

size_t Holders(BorrowedFd file) { return *CountHolders(*FdToDevIno(file), {::getpid()}); }

bool IsPathHandle(BorrowedFd fd) { return (::fcntl(fd.get(), F_GETFL) & O_PATH) != 0; }

// What a file: or unix: URL of a received message leads to.
std::string PathIn(const std::string& url) {
  const size_t slashes = url.find("://");
  EXPECT_NE(slashes, std::string::npos) << url;
  return url.substr(slashes + 3);
}

std::string ReadPath(const std::string& url) {
  const UniqueFd fd(::open(PathIn(url).c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(fd.valid()) << url;
  return fd.valid() ? Content(fd) : "";
}

class MessageTest : public ::testing::Test {
 protected:
  MessageTest() {
    char name[] = "/tmp/grpcfd_message_XXXXXX";
    dir_ = ::mkdtemp(name);
  }
  ~MessageTest() override {
    for (const std::string& path : made_) ::unlink(path.c_str());
    EXPECT_EQ(::rmdir(dir_.c_str()), 0);
  }

  std::string Path(const std::string& name) { return dir_ + "/" + name; }

  std::string Make(const std::string& name, const std::string& content) {
    const std::string path = Path(name);
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(::write(fd.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
    made_.push_back(path);
    return path;
  }

  UniqueFd Listen(const std::string& path) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = Address(path);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(fd.get(), 1), 0);
    made_.push_back(path);
    return fd;
  }

  static sockaddr_un Address(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    return address;
  }

  FdSender& client() { return *call_.client(); }
  FdReceiver& server() { return *call_.server(); }

  // Sends a file with this content, and names it.
  void AttachFile(const std::string& content, v1::Descriptor* out) {
    const absl::Status status = Attach(client(), MakeFile(content), out);
    EXPECT_TRUE(status.ok()) << status;
  }

  std::string dir_;
  std::vector<std::string> made_;
  FakeFdPair call_;
};

// --- One descriptor ---

TEST_F(MessageTest, AttachesAndTakes) {
  const UniqueFd file = MakeFile("content");
  Image image;
  v1::Descriptor* const fence = image.mutable_fence();
  fence->set_label("fence");
  fence->set_offset(4096);
  fence->set_size(7);
  ASSERT_TRUE(Attach(client(), file, fence).ok());
  EXPECT_EQ(fence->url(), InodeUrl(*FdToDevIno(file), 0).ToString());
  EXPECT_EQ(fence->label(), "fence");
  EXPECT_EQ(fence->offset(), 4096u);
  EXPECT_EQ(fence->size(), 7u);
  const absl::StatusOr<UniqueFd> taken = Take(server(), image.fence());
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_TRUE(*SameOpenFile(file, *taken));
  EXPECT_TRUE(absl::IsFailedPrecondition(Take(server(), image.fence()).status()));
}

TEST_F(MessageTest, AttachAdoptsWhatIsMoved) {
  UniqueFd file = MakeFile("content");
  const UniqueFd watch(
      ::open(absl::StrCat("/proc/self/fd/", file.get()).c_str(), O_PATH | O_CLOEXEC));
  Image image;
  ASSERT_TRUE(Attach(client(), std::move(file), image.mutable_fence()).ok());
  EXPECT_EQ(Holders(watch), 2u);  // The one that watches, and the one on its way.
}

TEST_F(MessageTest, AttachLeavesTheMessageAloneIfItFails) {
  Image image;
  image.mutable_fence()->set_url("before");
  EXPECT_TRUE(absl::IsInvalidArgument(Attach(client(), UniqueFd(), image.mutable_fence())));
  EXPECT_TRUE(absl::IsInvalidArgument(Attach(client(), BorrowedFd(-1), image.mutable_fence())));
  EXPECT_EQ(image.fence().url(), "before");
}

TEST_F(MessageTest, TakeOfNothing) {
  EXPECT_TRUE(absl::IsInvalidArgument(Take(server(), Image().fence()).status()));
  v1::Descriptor bad;
  bad.set_url("file:///etc/passwd");
  EXPECT_TRUE(absl::IsInvalidArgument(Take(server(), bad).status()));
  bad.set_url("inode://1/2?fd=0");
  EXPECT_TRUE(absl::IsDeadlineExceeded(Take(server(), bad, absl::Now()).status()));
}

TEST_F(MessageTest, AttachReturnsWhatNamesTheDescriptor) {
  const UniqueFd file = MakeFile("content");
  Image image;
  auto fence = Attach(client(), file);
  ASSERT_TRUE(fence.ok()) << fence.status();
  *image.mutable_fence() = *std::move(fence);
  auto moved = Attach(client(), MakeFile("moved"));
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(Content(*Take(server(), image.fence(), absl::Seconds(20))), "content");
  EXPECT_EQ(Content(*Take(server(), *moved)), "moved");
  EXPECT_TRUE(absl::IsInvalidArgument(Attach(client(), BorrowedFd(-1)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Attach(client(), UniqueFd()).status()));
}

// --- All descriptors of a message ---

TEST_F(MessageTest, TakesAllOfAMessage) {
  Image image;
  AttachFile("plane 0", image.add_planes()->mutable_memory());
  image.add_planes()->set_stride(1);  // Names none.
  AttachFile("plane 2", image.add_planes()->mutable_memory());
  AttachFile("fence", image.mutable_fence());
  AttachFile("left eye", &(*image.mutable_by_name())["left"]);
  AttachFile("by id", (*image.mutable_by_id())[-7].mutable_memory());
  (*image.mutable_plain_map())["x"] = "inode://1/2?fd=0";
  AttachFile("right", image.mutable_right());
  image.add_list();
  AttachFile("list", image.add_list());

  absl::StatusOr<TakenFds> fds = TakeAll(server(), image);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_EQ(call_.unclaimed(), 0u);
  EXPECT_THAT(fds->paths(),
              ElementsAre("planes[0].memory", "planes[2].memory", "fence", "by_name[\"left\"]",
                          "by_id[-7].memory", "right", "list[1]"));
  EXPECT_EQ(fds->size(), 7u);
  EXPECT_EQ(Content(*fds->Get("planes[0].memory")), "plane 0");
  EXPECT_EQ(Content(*fds->Get("planes[2].memory")), "plane 2");
  EXPECT_EQ(Content(*fds->Get("fence")), "fence");
  EXPECT_EQ(Content(*fds->Get("by_name[\"left\"]")), "left eye");
  EXPECT_EQ(Content(*fds->Get("by_id[-7].memory")), "by id");
  EXPECT_EQ(Content(*fds->Get("right")), "right");
  EXPECT_EQ(Content(*fds->Get("list[1]")), "list");

  EXPECT_EQ(Content(*fds->Get(image.planes(2).memory())), "plane 2");
  EXPECT_EQ(Content(*fds->Get(image.by_name().at("left"))), "left eye");
  const Image copy = image;
  EXPECT_EQ(Content(*fds->Get(copy.by_id().at(-7).memory())), "by id");

  absl::StatusOr<UniqueFd> taken = fds->Take(image.planes(0).memory());
  ASSERT_TRUE(taken.ok());
  EXPECT_EQ(Content(*taken), "plane 0");
  EXPECT_TRUE(absl::IsFailedPrecondition(fds->Take("planes[0].memory").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(fds->Get("planes[0].memory").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(fds->Get(image.planes(0).memory()).status()));
  EXPECT_TRUE(absl::IsNotFound(fds->Get("planes[1].memory").status()));
  EXPECT_TRUE(absl::IsNotFound(fds->Take(image.planes(1).memory()).status()));
  v1::Descriptor other;
  other.set_url("inode://1/2?fd=0");
  EXPECT_TRUE(absl::IsNotFound(fds->Get(other).status()));
}

TEST_F(MessageTest, TheMessageCanBeADescriptorItself) {
  v1::Descriptor descriptor;
  AttachFile("itself", &descriptor);
  absl::StatusOr<TakenFds> fds = TakeAll(server(), descriptor);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_THAT(fds->paths(), ElementsAre(""));
  EXPECT_EQ(Content(*fds->Get(descriptor)), "itself");
}

TEST_F(MessageTest, OnlyTheSetMemberOfAOneofCounts) {
  Image image;
  AttachFile("left", image.mutable_left());
  const std::string url = image.left().url();
  image.mutable_right()->set_url(url);
  EXPECT_THAT(TakeAll(server(), image)->paths(), ElementsAre("right"));
  image.set_note("a note");
  EXPECT_EQ(TakeAll(server(), image)->size(), 0u);
}

TEST_F(MessageTest, LooksIntoNoAny) {
  Image inner;
  AttachFile("inside", inner.mutable_fence());
  Image image;
  ASSERT_TRUE(image.mutable_any()->PackFrom(inner));
  EXPECT_EQ(TakeAll(server(), image)->size(), 0u);
  EXPECT_EQ(call_.unclaimed(), 1u);
  Image unpacked;
  ASSERT_TRUE(image.any().UnpackTo(&unpacked));
  EXPECT_EQ(Content(*TakeAll(server(), unpacked)->Get("fence")), "inside");
}

TEST_F(MessageTest, FieldsThatNameOneDescriptorShareIt) {
  const UniqueFd file = MakeFile("shared");
  Image image;
  for (int i = 0; i < 3; ++i) image.add_planes();
  ASSERT_TRUE(Attach(client(), file, image.mutable_planes(0)->mutable_memory()).ok());
  const std::string url = image.planes(0).memory().url();
  for (int i = 1; i < 3; ++i) {
    image.mutable_planes(i)->mutable_memory()->set_url(url);
    image.mutable_planes(i)->mutable_memory()->set_offset(4096u * static_cast<unsigned>(i));
  }
  absl::StatusOr<TakenFds> fds = TakeAll(server(), image);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_EQ(fds->size(), 3u);
  EXPECT_EQ(Holders(file), 2u);  // Not multiplied.
  std::vector<UniqueFd> taken;
  const Image copy = image;  // Its Descriptors stand in for each other.
  for (const test::Plane& plane : copy.planes()) {
    absl::StatusOr<UniqueFd> fd = fds->Take(plane.memory());
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_TRUE(*SameOpenFile(file, *fd));
    taken.push_back(*std::move(fd));
  }
  EXPECT_EQ(Holders(file), 4u);
  EXPECT_TRUE(absl::IsFailedPrecondition(fds->Take(copy.planes(0).memory()).status()));
}

TEST_F(MessageTest, UrlsWithoutIndexMeanOneDescriptorEach) {
  const UniqueFd file = MakeFile("twice");
  ASSERT_TRUE(client().SendFd(file).ok());
  ASSERT_TRUE(client().SendFd(file).ok());
  Image image;
  const std::string url = FdToUrl(file)->ToString();
  image.add_list()->set_url(url);
  image.add_list()->set_url(url);
  absl::StatusOr<TakenFds> fds = TakeAll(server(), image);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_NE(fds->Get(image.list(0))->get(), fds->Get(image.list(1))->get());
  const v1::Descriptor copy = image.list(0);
  EXPECT_TRUE(absl::IsFailedPrecondition(fds->Get(copy).status()));
  EXPECT_TRUE(fds->Get("list[0]").ok());
  EXPECT_EQ(Holders(file), 3u);
}

TEST_F(MessageTest, TakesAllOrNothing) {
  const UniqueFd file = MakeFile("a");
  Image image;
  ASSERT_TRUE(Attach(client(), file, image.add_planes()->mutable_memory()).ok());
  image.add_planes()->mutable_memory()->set_url("inode://1/2?fd=7");
  const absl::Status late = TakeAll(server(), image, absl::Now()).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  EXPECT_THAT(Text(late), StartsWith("planes[1].memory: "));
  EXPECT_EQ(Holders(file), 1u);
  EXPECT_EQ(call_.unclaimed(), 0u);

  // What can be refused at once takes nothing.
  ASSERT_TRUE(Attach(client(), file, image.mutable_planes(0)->mutable_memory()).ok());
  image.mutable_planes(1)->mutable_memory()->set_url("no URL");
  const absl::Status refused = TakeAll(server(), image).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_THAT(Text(refused), StartsWith("planes[1].memory: "));
  EXPECT_EQ(call_.unclaimed(), 1u);
}

// --- Bounds ---

TEST_F(MessageTest, DepthIsBounded) {
  for (const int depth : {internal::kMaxDepth, internal::kMaxDepth + 1}) {
    Paths root;
    Paths* deepest = &root;
    for (int i = 1; i < depth; ++i) deepest = deepest->mutable_child();
    deepest->set_file("file://" + Make("deep", "deep"));
    const absl::Status attached = AttachAll(client(), &root);
    if (depth <= internal::kMaxDepth) {
      EXPECT_TRUE(attached.ok()) << attached;
      EXPECT_TRUE(TakeAll(server(), &root).ok());
    } else {
      EXPECT_TRUE(absl::IsInvalidArgument(attached));
      EXPECT_TRUE(absl::IsInvalidArgument(TakeAll(server(), &root).status()));
    }
  }
}

TEST_F(MessageTest, TheNumberOfNamesIsBounded) {
  Image image;
  for (size_t i = 0; i <= internal::kMaxFound; ++i) image.add_list()->set_url("inode://1/2?fd=0");
  MockFdReceiver receiver;
  EXPECT_CALL(receiver, ReceiveFd(_, _)).Times(0);
  EXPECT_TRUE(absl::IsInvalidArgument(TakeAll(receiver, image).status()));
}

TEST_F(MessageTest, LongKeysAreCut) {
  Image image;
  AttachFile("x", &(*image.mutable_by_name())[std::string(1000, 'k')]);
  const std::vector<std::string> paths = TakeAll(server(), image)->paths();
  EXPECT_THAT(paths, ElementsAre("by_name[\"" + std::string(internal::kMaxKey, 'k') + "...\"]"));
}

// --- Paths ---

TEST_F(MessageTest, PathsBecomeDescriptorsAndPathsAgain) {
  const std::string socket_path = Path("socket");
  const UniqueFd listener = Listen(socket_path);
  Paths message;
  message.set_file("file://" + Make("a b%", "file"));
  message.set_file("FILE://" + dir_ + "/a%20b%25");
  message.set_socket("unix://" + socket_path);
  message.add_files("file://" + Make("f0", "files 0"));
  message.add_files("");
  message.add_files("https://example.org/x");
  message.add_files("file://" + Make("f2", "files 2"));
  (*message.mutable_by_name())["n"] = "file://" + Make("n", "by name");
  (*message.mutable_nested())[3].set_file("file://" + Make("m", "nested"));
  message.set_one("file://" + Make("o", "one of"));
  AttachFile("typed", message.mutable_typed());

  ASSERT_TRUE(AttachAll(client(), &message).ok());
  for (const std::string& url :
       {message.file(), message.socket(), message.files(0), message.files(3),
        message.by_name().at("n"), message.nested().at(3).file(), message.one()}) {
    EXPECT_TRUE(InodeUrl::Parse(url).ok()) << url;
  }
  EXPECT_EQ(message.files(1), "");
  EXPECT_EQ(message.files(2), "https://example.org/x");

  // The receiver needs no path: they may all be gone.
  for (const std::string& path : made_) EXPECT_EQ(::unlink(path.c_str()), 0);
  made_.clear();

  const std::string on_the_wire = message.SerializeAsString();
  Paths received;
  ASSERT_TRUE(received.ParseFromString(on_the_wire));
  absl::StatusOr<TakenFds> fds = TakeAll(server(), &received);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_EQ(fds->size(), 8u);
  EXPECT_EQ(call_.unclaimed(), 0u);
  EXPECT_EQ(ReadPath(received.file()), "file");
  EXPECT_EQ(ReadPath(received.files(0)), "files 0");
  EXPECT_EQ(ReadPath(received.files(3)), "files 2");
  EXPECT_EQ(ReadPath(received.by_name().at("n")), "by name");
  EXPECT_EQ(ReadPath(received.nested().at(3).file()), "nested");
  EXPECT_EQ(ReadPath(received.one()), "one of");
  EXPECT_EQ(received.typed().url(), message.typed().url());
  EXPECT_EQ(Content(*fds->Get(received.typed())), "typed");
  EXPECT_THAT(received.file(), StartsWith("file:///proc/self/fd/"));
  EXPECT_TRUE(IsPathHandle(*fds->Get("file")));

  // A handle of a socket file is good for connect(2), the file's name gone or not.
  EXPECT_THAT(received.socket(), StartsWith("unix:///proc/self/fd/"));
  const UniqueFd connected(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(PathIn(received.socket()));
  EXPECT_EQ(
      ::connect(connected.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const UniqueFd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(accepted.valid());
}

TEST_F(MessageTest, OpensWithTheFlagsThatAreAskedFor) {
  Paths message;
  message.set_file("file://" + Make("f", "content"));
  ASSERT_TRUE(AttachAll(client(), &message, O_RDONLY).ok());
  absl::StatusOr<TakenFds> fds = TakeAll(server(), message);  // The form that replaces nothing.
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_TRUE(InodeUrl::Parse(message.file()).ok());
  EXPECT_FALSE(IsPathHandle(*fds->Get("file")));
  EXPECT_EQ(Content(*fds->Get("file")), "content");
}

TEST_F(MessageTest, WithoutASchemeTheDescriptorDecides) {
  const UniqueFd listener = Listen(Path("s"));
  Paths message;
  message.set_file(client().SendFilename(Path("s"))->ToString());
  message.set_socket(client().SendFd(MakeFile("x"))->ToString());
  absl::StatusOr<TakenFds> fds = TakeAll(server(), &message);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_THAT(message.file(), StartsWith("unix:///proc/self/fd/"));
  EXPECT_THAT(message.socket(), StartsWith("file:///proc/self/fd/"));
}

TEST_F(MessageTest, ASchemeIsChecked) {
  const UniqueFd file = MakeFile("x");
  for (const char* scheme : {"unix", "https"}) {
    Paths message;
    message.set_file(client().SendFd(file)->ToString() + "&scheme=" + scheme);
    const Paths before = message;
    const absl::Status status = TakeAll(server(), &message).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(Text(status), StartsWith("file: "));
    EXPECT_TRUE(MessageDifferencer::Equals(before, message));
    EXPECT_EQ(Holders(file), 1u);
  }
}

// The rule that keeps a server which forwards a stranger's message from opening files for it.
TEST_F(MessageTest, UnmarkedFieldsAreNeverOpenedNorTaken) {
  const std::string url = "file://" + Make("secret", "secret");
  Paths message;
  message.set_unmarked(url);
  message.add_unmarked_list(url);
  (*message.mutable_unmarked_map())["k"] = url;
  message.set_other(url);
  message.mutable_typed()->set_url("");
  message.mutable_typed()->set_label(url);
  Image image;
  (*image.mutable_plain_map())["k"] = url;
  image.mutable_fence()->set_url(url);
  const Paths before = message;
  const Image image_before = image;

  MockFdSender sender;
  EXPECT_CALL(sender, SendBorrowed(_)).Times(0);
  EXPECT_CALL(sender, SendOwned(_)).Times(0);
  EXPECT_CALL(sender, SendPath(_, _)).Times(0);
  EXPECT_TRUE(AttachAll(sender, &message).ok());
  EXPECT_TRUE(AttachAll(sender, &image).ok());
  EXPECT_TRUE(MessageDifferencer::Equals(before, message));
  EXPECT_TRUE(MessageDifferencer::Equals(image_before, image));

  const std::string inode_url = client().SendFd(MakeFile("x"))->ToString();
  message.set_unmarked(inode_url);
  absl::StatusOr<TakenFds> fds = TakeAll(server(), &message);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_EQ(fds->size(), 0u);
  EXPECT_EQ(message.unmarked(), inode_url);
  EXPECT_EQ(call_.unclaimed(), 1u);
}

TEST_F(MessageTest, AReceiverOpensNoPathAndAcceptsNone) {
  const UniqueFd own = MakeFile("the receiver's own");
  for (const std::string& url : {"file://" + Make("f", "x"), "unix://" + Path("s"),
                                 absl::StrCat("file:///proc/self/fd/", own.get()),
                                 std::string("File:x"), std::string("unix:x")}) {
    MockFdReceiver receiver;
    EXPECT_CALL(receiver, ReceiveFd(_, _)).Times(0);
    Paths message;
    message.set_file(url);
    const absl::Status status = TakeAll(receiver, &message).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(Text(status), StartsWith("file: "));
    EXPECT_EQ(message.file(), url);
    EXPECT_TRUE(absl::IsInvalidArgument(TakeAll(receiver, std::as_const(message)).status()));
  }
}

TEST_F(MessageTest, AttachAllRefusesWhatIsNoPath) {
  const std::string file = Make("f", "x");
  for (const std::string& url :
       {std::string("file:relative"), std::string("file://host/x"), "file:/" + file,
        "file://" + file + "?x", "file://" + file + "#x", "file://" + file + "%",
        "file://" + file + "%4", "file://" + file + "%zz", "file://" + file + "%00",
        "unix://" + file, std::string("unix:x"), "unix://" + dir_}) {
    Paths message;
    message.add_files("file://" + file);
    message.add_files(url);
    const Paths before = message;
    const absl::Status status = AttachAll(client(), &message);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << url << ": " << status;
    EXPECT_THAT(Text(status), StartsWith("files[1]: "));
    EXPECT_TRUE(MessageDifferencer::Equals(before, message));
  }
  EXPECT_EQ(call_.unclaimed(), 0u);
}

TEST_F(MessageTest, AttachAllSendsNothingUnlessEverythingCanBeOpened) {
  Paths message;
  message.add_files("file://" + Make("f", "x"));
  message.add_files("file://" + Path("missing"));
  const Paths before = message;
  const absl::Status status = AttachAll(client(), &message);
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(Text(status), StartsWith("files[1]: "));
  EXPECT_TRUE(MessageDifferencer::Equals(before, message));
  EXPECT_EQ(call_.unclaimed(), 0u);
}

TEST_F(MessageTest, AttachAllLeavesTheMessageAloneIfSendingFails) {
  const std::string path = Make("f", "x");
  Paths message;
  for (int i = 0; i < 17; ++i) message.add_files("file://" + path);  // max_fds_per_call is 16.
  const Paths before = message;
  const absl::Status status = AttachAll(client(), &message);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(Text(status), StartsWith("files[16]: "));
  EXPECT_TRUE(MessageDifferencer::Equals(before, message));
  call_.EndCall();
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(Holders(file), 1u);
}

TEST_F(MessageTest, AttachAllAgainChangesNothing) {
  Paths message;
  message.set_file("file://" + Make("f", "x"));
  ASSERT_TRUE(AttachAll(client(), &message).ok());
  const Paths before = message;
  ASSERT_TRUE(AttachAll(client(), &message).ok());
  EXPECT_TRUE(MessageDifferencer::Equals(before, message));
  EXPECT_EQ(call_.unclaimed(), 1u);
}

TEST_F(MessageTest, TakeAllLeavesTheMessageAloneIfItFails) {
  const UniqueFd file = MakeFile("x");
  Paths message;
  message.add_files(client().SendFd(file)->ToString());
  message.add_files("inode://1/2?fd=9");
  const Paths before = message;
  const absl::Status status = TakeAll(server(), &message, absl::Now()).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(Text(status), StartsWith("files[1]: "));
  EXPECT_TRUE(MessageDifferencer::Equals(before, message));
  EXPECT_EQ(Holders(file), 1u);
}

TEST_F(MessageTest, TheOptionIsForStrings) {
  BadMarks message;
  EXPECT_TRUE(AttachAll(client(), &message).ok());  // Nothing is set.
  message.set_data("file:///etc/passwd");
  EXPECT_TRUE(absl::IsInvalidArgument(AttachAll(client(), &message)));
  message.clear_data();
  (*message.mutable_numbers())["x"] = 1;
  const absl::Status status = TakeAll(server(), message).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(Text(status), HasSubstr("numbers"));
}

TEST_F(MessageTest, AnEmptyTakenFds) {
  TakenFds none;
  EXPECT_THAT(none.paths(), IsEmpty());
  EXPECT_TRUE(absl::IsNotFound(none.Get("x").status()));
  EXPECT_TRUE(absl::IsNotFound(none.Take("x").status()));
}

// --- Messages whose type is known at run time only ---

// A copy of the test's schema, as a program has it that reads descriptor sets.
class DynamicMessageTest : public MessageTest {
 protected:
  // A message of type `name`, with the content of `generated`.
  std::unique_ptr<google::protobuf::Message> Make(const google::protobuf::Message& generated) {
    Import(generated.GetDescriptor()->file());
    const auto* type = pool_.FindMessageTypeByName(generated.GetDescriptor()->full_name());
    std::unique_ptr<google::protobuf::Message> message(factory_.GetPrototype(type)->New());
    EXPECT_TRUE(message->ParseFromString(generated.SerializeAsString()));
    return message;
  }
  // The other way.
  template <typename Generated>
  static Generated Back(const google::protobuf::Message& message) {
    Generated generated;
    EXPECT_TRUE(generated.ParseFromString(message.SerializeAsString()));
    return generated;
  }

 private:
  void Import(const google::protobuf::FileDescriptor* file) {
    if (pool_.FindFileByName(file->name()) != nullptr) return;
    for (int i = 0; i < file->dependency_count(); ++i) Import(file->dependency(i));
    google::protobuf::FileDescriptorProto proto;
    file->CopyTo(&proto);
    ASSERT_NE(pool_.BuildFile(proto), nullptr);
  }

  google::protobuf::DescriptorPool pool_;
  google::protobuf::DynamicMessageFactory factory_;
};

TEST_F(DynamicMessageTest, TakesEveryDescriptor) {
  Image image;
  AttachFile("fence", image.mutable_fence());
  AttachFile("plane", image.add_planes()->mutable_memory());
  AttachFile("name", &(*image.mutable_by_name())["left"]);
  const auto message = Make(image);
  ASSERT_EQ(dynamic_cast<Image*>(message.get()), nullptr);
  absl::StatusOr<TakenFds> fds = TakeAll(server(), *message);
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_THAT(fds->paths(), ElementsAre("planes[0].memory", "fence", "by_name[\"left\"]"));
  EXPECT_EQ(Content(*fds->Take("fence")), "fence");
  // By a generated copy of the field.
  EXPECT_EQ(Content(*fds->Take(image.planes(0).memory())), "plane");
}

TEST_F(DynamicMessageTest, AttachesAndTakesPaths) {
  Paths paths;
  paths.set_file("file://" + MessageTest::Make("dynamic", "content"));
  paths.set_unmarked("file:///etc/passwd");
  const auto message = Make(paths);
  ASSERT_TRUE(AttachAll(client(), message.get(), O_RDONLY).ok());
  EXPECT_THAT(Back<Paths>(*message).file(), StartsWith("inode://"));
  EXPECT_EQ(Back<Paths>(*message).unmarked(), "file:///etc/passwd");
  absl::StatusOr<TakenFds> fds = TakeAll(server(), message.get());
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_EQ(ReadPath(Back<Paths>(*message).file()), "content");
}

}  // namespace
}  // namespace grpcfd
