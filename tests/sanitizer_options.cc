// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// The sanitizers' run-time options, linked into every test program: they hold however a test is
// started, and the programs that are built without sanitizers ignore them.

extern "C" const char* __asan_default_options();
extern "C" const char* __ubsan_default_options();
extern "C" const char* __tsan_default_options();
extern "C" const char* __tsan_default_suppressions();

// detect_stack_use_after_return is off: it moves locals to the heap, and waiters of the session
// live on their callers' stacks, which makes use-after-scope the check that counts.
extern "C" const char* __asan_default_options() {
  return "detect_leaks=1:check_initialization_order=1:strict_init_order=1";
}
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1"; }
extern "C" const char* __tsan_default_options() {
  return "halt_on_error=0:exitcode=66:second_deadlock_stack=1:history_size=4";
}
// Debian builds libabsl_status without ThreadSanitizer. It drops the last reference to a status
// there, and so the order that the counter makes between two threads that share one is not seen.
extern "C" const char* __tsan_default_suppressions() { return "race:absl::*Status::Unref"; }
