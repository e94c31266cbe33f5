// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// CallTable: the inboxes of a session, by call.
//
// A hash table with chains. The links are in the inboxes, so a call that comes and goes allocates
// nothing. The hash has a seed of the process: a peer that chooses its calls' ids cannot choose
// their chain.
#ifndef GRPCFD_FDCHANNEL_SESSION_CALL_TABLE_H_
#define GRPCFD_FDCHANNEL_SESSION_CALL_TABLE_H_

#include <stddef.h>

#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "fdchannel/session/descriptor_inbox.h"
#include "fdchannel/wire/frame.h"

namespace grpcfd {
namespace internal {

// Thread-compatible: a part of a Session, guarded by its mutex. The inboxes stay their owners'.
class CallTable {
 public:
  CallTable() : chains_(kFirstSize) {}
  CallTable(const CallTable&) = delete;
  CallTable& operator=(const CallTable&) = delete;

  bool empty() const { return size_ == 0; }
  // Null if there is none.
  DescriptorInbox* Find(const CallKey& call) const { return InChain(chains_[PlaceOf(call)], call); }

  // Null if `inbox` was entered; else the one that has its call.
  DescriptorInbox* Enter(DescriptorInbox* inbox) {
    DescriptorInbox** const chain = &chains_[PlaceOf(inbox->key())];
    DescriptorInbox* const other = InChain(*chain, inbox->key());
    if (other != nullptr) return other;
    inbox->next_in_table_ = std::exchange(*chain, inbox);
    if (++size_ > chains_.size()) Grow();
    return nullptr;
  }

  // False, with nothing done, if `inbox` is not in the table.
  bool Remove(const DescriptorInbox* inbox) {
    DescriptorInbox** link = &chains_[PlaceOf(inbox->key())];
    while (*link != inbox) {
      if (*link == nullptr) return false;
      link = &(*link)->next_in_table_;
    }
    *link = inbox->next_in_table_;
    --size_;
    return true;
  }

  // Calls visit(DescriptorInbox*) for each, which must not change the table.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (DescriptorInbox* inbox : chains_) {
      for (; inbox != nullptr; inbox = inbox->next_in_table_) visit(inbox);
    }
  }

 private:
  static constexpr size_t kFirstSize = 8;  // A power of two, as all sizes.

  static DescriptorInbox* InChain(DescriptorInbox* inbox, const CallKey& call) {
    while (inbox != nullptr && !(inbox->key() == call)) inbox = inbox->next_in_table_;
    return inbox;
  }
  size_t PlaceOf(const CallKey& call) const {
    return absl::Hash<CallKey>()(call) & (chains_.size() - 1);
  }
  void Grow() {
    std::vector<DescriptorInbox*> old(2 * chains_.size());
    old.swap(chains_);
    for (DescriptorInbox* inbox : old) {
      while (inbox != nullptr) {
        DescriptorInbox*& chain = chains_[PlaceOf(inbox->key())];
        DescriptorInbox* const next = std::exchange(inbox->next_in_table_, chain);
        chain = std::exchange(inbox, next);
      }
    }
  }

  std::vector<DescriptorInbox*> chains_;
  size_t size_ = 0;
};

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_FDCHANNEL_SESSION_CALL_TABLE_H_
