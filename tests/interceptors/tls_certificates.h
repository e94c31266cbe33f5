// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A certificate authority of the test's own, and a server certificate that it signed. Made anew in
// each process, in memory: no private key is ever in the tree or on a disk.
#ifndef GRPCFD_TESTS_INTERCEPTORS_TLS_CERTIFICATES_H_
#define GRPCFD_TESTS_INTERCEPTORS_TLS_CERTIFICATES_H_

#include <string>

namespace grpcfd {
namespace testing_internal {

// All in PEM.
struct TlsCertificates {
  std::string authority;    // what clients trust
  std::string certificate;  // the server's
  std::string private_key;  // the server's
};

// The name that the server's certificate is for.
inline constexpr char kTlsServerName[] = "server.grpcfd.test";

// Valid for an hour. Empty strings, and a test failure, if libssl refuses.
TlsCertificates MakeTlsCertificates();

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_TLS_CERTIFICATES_H_
