// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
#include "fdchannel/session/descriptor_inbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/fdchannel/session/cpu_time.h"

namespace grpcfd {
namespace internal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Answer = DescriptorInbox::Answer;

DevIno File(uint64_t ino) { return DevIno{1, ino}; }
InodeUrl Url(uint64_t ino, uint32_t index) { return InodeUrl(File(ino), index); }

// Descriptor `index` of file `index`. Its number is invalid: an inbox never uses the number.
DescriptorInbox::Slot* Add(DescriptorInbox* inbox, uint32_t index) {
  return inbox->Add(index, File(index), FdFacts(), UniqueFd());
}

Answer Ask(DescriptorInbox* inbox, const InodeUrl& url, bool drained = false, bool alive = true) {
  const auto found = inbox->Seek(url, drained, alive);
  const bool error = found.answer != Answer::kHere && found.answer != Answer::kWait &&
                     found.answer != Answer::kDead;
  const absl::Status status = inbox->Explain(found, url, "the test");
  EXPECT_EQ(status.code() == absl::StatusCode::kInternal, !error) << status;
  return found.answer;
}

TEST(DescriptorInboxTest, AnswersForAStream) {
  DescriptorInbox inbox({1, 0});
  inbox.Begin(/*announced=*/1, /*holes=*/0, /*open_ended=*/true);
  EXPECT_EQ(Ask(&inbox, Url(0, 0)), Answer::kWait);
  EXPECT_EQ(Ask(&inbox, Url(0, 0), /*drained=*/true), Answer::kLost);
  EXPECT_EQ(Ask(&inbox, Url(5, 5), /*drained=*/true), Answer::kWait);
  EXPECT_EQ(Ask(&inbox, Url(5, 5), /*drained=*/true, /*alive=*/false), Answer::kDead);
  DescriptorInbox::Slot* const slot = Add(&inbox, 0);
  EXPECT_TRUE(inbox.AnnouncedCame());
  EXPECT_EQ(Ask(&inbox, Url(0, 0)), Answer::kHere);
  EXPECT_EQ(Ask(&inbox, InodeUrl(File(0))), Answer::kHere);
  EXPECT_EQ(Ask(&inbox, Url(7, 0)), Answer::kOtherFile);
  inbox.Take(slot);
  EXPECT_EQ(Ask(&inbox, Url(0, 0)), Answer::kTaken);
  // Another one of this file may come.
  EXPECT_EQ(Ask(&inbox, InodeUrl(File(0)), /*drained=*/true), Answer::kWait);
  EXPECT_TRUE(inbox.Knows(File(0)));
  inbox.Complete();
  EXPECT_EQ(Ask(&inbox, Url(5, 5)), Answer::kWait) << "it may be in the socket";
  EXPECT_EQ(Ask(&inbox, Url(5, 5), /*drained=*/true), Answer::kCallOver);
  EXPECT_EQ(Ask(&inbox, InodeUrl(File(5)), /*drained=*/true), Answer::kCallOver);
  EXPECT_EQ(Ask(&inbox, InodeUrl(File(0)), /*drained=*/true), Answer::kTaken);
  inbox.Cancel();
  EXPECT_EQ(Ask(&inbox, Url(5, 5)), Answer::kCancelled);
  inbox.End(absl::FailedPreconditionError("over"));
  EXPECT_EQ(Ask(&inbox, Url(0, 0)), Answer::kFailed);
}

TEST(DescriptorInboxTest, AnswersForACallThatIsSent) {
  DescriptorInbox inbox({1, 0}, std::make_shared<ReceivePolicy>(ReceivePolicy().MaxFds(2)));
  inbox.Begin(/*announced=*/4, /*holes=*/1, /*open_ended=*/false);
  EXPECT_TRUE(inbox.LookSettles(Url(9, 9)));
  EXPECT_EQ(Ask(&inbox, Url(4, 4)), Answer::kNotSent);
  EXPECT_EQ(Ask(&inbox, InodeUrl(File(9)), /*drained=*/true), Answer::kNoSuchFile);
  for (const uint32_t index : {0u, 1u, 3u}) {
    EXPECT_FALSE(inbox.AnnouncedCame());
    DescriptorInbox::Slot* const slot = Add(&inbox, index);
    EXPECT_EQ(inbox.Refuses(*slot), index == 3);
    slot->refused = index == 3;
  }
  EXPECT_TRUE(inbox.AnnouncedCame());
  EXPECT_EQ(Ask(&inbox, Url(2, 2)), Answer::kLeftOut);
  EXPECT_EQ(Ask(&inbox, Url(3, 3)), Answer::kRefused);
  EXPECT_EQ(Ask(&inbox, InodeUrl(File(3))), Answer::kRefused);
  const auto refused = inbox.Seek(Url(3, 3), false, true);
  EXPECT_THAT(std::string(inbox.Explain(refused, Url(3, 3), "the test").message()),
              HasSubstr("of call 1 from the test was closed"));
  EXPECT_THAT(inbox.Untaken(), ElementsAre(Url(0, 0), Url(1, 1)));
}

TEST(DescriptorInboxTest, InheritsWhatCameEarly) {
  DescriptorInbox early({1, 0});
  for (const uint32_t index : {2u, 0u, 1u}) Add(&early, index);
  DescriptorInbox inbox({1, 0});
  inbox.Begin(/*announced=*/2, /*holes=*/0, /*open_ended=*/true);
  EXPECT_FALSE(inbox.AnnouncedCame());
  inbox.Inherit(&early);
  EXPECT_TRUE(inbox.AnnouncedCame());
  EXPECT_FALSE(early.holds_any());
  EXPECT_THAT(inbox.Untaken(), ElementsAre(Url(0, 0), Url(1, 1), Url(2, 2)));
}

// In any order, taken in any order: each is here once, taken once, and then forgotten.
TEST(DescriptorInboxTest, KeepsOrderWhateverTheOrderOfComing) {
  constexpr uint32_t kCount = 1000;
  for (const uint64_t seed : {1u, 2u, 3u, 4u}) {
    std::mt19937_64 random(seed);
    std::vector<uint32_t> order(kCount);
    for (uint32_t i = 0; i < kCount; ++i) order[i] = i;
    // Nearly in order, as with several senders; or in any order.
    const uint32_t reach = seed % 2 == 0 ? 8 : kCount;
    for (uint32_t i = 0; i + 1 < kCount; ++i) {
      std::swap(order[i], order[i + random() % std::min(reach, kCount - i)]);
    }
    DescriptorInbox inbox({1, 0});
    inbox.Begin(kCount, 0, false);
    std::vector<uint32_t> here;
    size_t most = 0;
    for (const uint32_t index : order) {
      ASSERT_FALSE(inbox.Came(index));
      Add(&inbox, index);
      ASSERT_TRUE(inbox.Tidy());
      ASSERT_TRUE(inbox.Came(index));
      here.push_back(index);
      if (random() % 4 == 0) continue;
      const size_t which = random() % here.size();
      const auto found = inbox.Seek(Url(here[which], here[which]), false, true);
      ASSERT_EQ(found.answer, Answer::kHere);
      inbox.Take(found.slot);
      here.erase(here.begin() + static_cast<ptrdiff_t>(which));
      most = std::max(most, inbox.slots());
    }
    EXPECT_TRUE(inbox.AnnouncedCame());
    std::sort(here.begin(), here.end());
    std::vector<InodeUrl> left;
    for (const uint32_t index : here) left.push_back(Url(index, index));
    EXPECT_EQ(inbox.Untaken(), left);
    for (const uint32_t index : here) inbox.Take(inbox.Find(index));
    for (uint32_t i = 0; i < kCount; ++i) EXPECT_EQ(Ask(&inbox, Url(i, i)), Answer::kTaken);
    EXPECT_LE(inbox.slots(), 128u) << "most: " << most;
  }
}

// Guards against an insertion at the front of all that are here, which a peer can have by sending
// its indices backwards.
TEST(DescriptorInboxTest, DescendingIndicesCostNoMoreThanOthers) {
  DescriptorInbox inbox({1, 0}, std::make_shared<ReceivePolicy>(ReceivePolicy().MaxFds(0)));
  inbox.Begin(0, 0, true);
  const absl::Duration before = CpuTime();
  constexpr uint32_t kCount = DescriptorInbox::kMostSlots - 1;
  for (uint32_t i = kCount; i > 0; --i) {
    Add(&inbox, i)->refused = true;
    ASSERT_TRUE(inbox.Tidy());
  }
  EXPECT_EQ(inbox.slots(), kCount);
  // Moving them all up each time takes ten times as long in an optimised build.
  EXPECT_LT(CpuTime() - before, absl::Seconds(2));
  Add(&inbox, kCount + 1);
  EXPECT_TRUE(inbox.Tidy());
  Add(&inbox, kCount + 2);
  EXPECT_FALSE(inbox.Tidy()) << "index 0 was left out";
  EXPECT_EQ(inbox.lowest(), 0u);
  // With it all that are gone are forgotten.
  Add(&inbox, 0)->refused = true;
  EXPECT_TRUE(inbox.Tidy());
  EXPECT_EQ(inbox.slots(), 2u);
}

}  // namespace
}  // namespace internal
}  // namespace grpcfd
