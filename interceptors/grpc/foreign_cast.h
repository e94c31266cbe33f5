// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// Tells grpcfd's own objects from those of the program.
//
// Why it exists: dynamic_cast and typeid crash on an object whose class was compiled with
// -fno-rtti, and a program may be. grpcfd itself is not. The virtual table says it: in the C++ ABI
// of all compilers for Linux, the word in front of its first function is the address of the class's
// type_info, and null without one.
#ifndef GRPCFD_INTERCEPTORS_GRPC_FOREIGN_CAST_H_
#define GRPCFD_INTERCEPTORS_GRPC_FOREIGN_CAST_H_

#include <type_traits>
#include <typeinfo>

namespace grpcfd {
namespace internal {

// The class of `object`, which is not null. Null if it was compiled without type information.
template <typename From>
const std::type_info* TypeInfoOf(const From* object) {
  static_assert(std::is_polymorphic<From>::value, "has no virtual table");
  return (*reinterpret_cast<const std::type_info* const* const*>(object))[-1];
}

// dynamic_cast. Null for null, and for an object without type information.
template <typename To, typename From>
To* ForeignCast(From* object) {
  if (object == nullptr || TypeInfoOf(object) == nullptr) return nullptr;
  return dynamic_cast<To*>(object);
}

}  // namespace internal
}  // namespace grpcfd

#endif  // GRPCFD_INTERCEPTORS_GRPC_FOREIGN_CAST_H_
