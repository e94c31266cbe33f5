// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0
//
// A key and its self-signed certificate for the name "test.grpcfd", valid until 2126, for tests of
// TLS over unix sockets. Made with
//   openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500
//       -subj /CN=test.grpcfd -addext subjectAltName=DNS:test.grpcfd
//
// It protects nothing: the key is public.
#ifndef GRPCFD_TESTS_INTERCEPTORS_TLS_TEST_KEYS_H_
#define GRPCFD_TESTS_INTERCEPTORS_TLS_TEST_KEYS_H_

namespace grpcfd {
namespace testing_internal {

inline constexpr char kTlsTestName[] = "test.grpcfd";

inline constexpr char kTlsTestCertificate[] =
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBmjCCAUGgAwIBAgIUdDnoKREmPYjvJPcAYh1FfGMDvXEwCgYIKoZIzj0EAwIw\n"
    "FjEUMBIGA1UEAwwLdGVzdC5ncnBjZmQwIBcNMjYxMTIzMDEzNjM0WhgPMjEyNjEw\n"
    "MzAwMTM2MzRaMBYxFDASBgNVBAMMC3Rlc3QuZ3JwY2ZkMFkwEwYHKoZIzj0CAQYI\n"
    "KoZIzj0DAQcDQgAEPo+mNMra267wh5gJmhZS5BSpNHOyRIloL9PEdHVwsAgcBl1Z\n"
    "ANgLi2G3bsMEmHRyp6fDPHYNIaoOYHwpD04Lc6NrMGkwHQYDVR0OBBYEFLsxVWLA\n"
    "hUiqI3ZaUQJ3ZRCWebm6MB8GA1UdIwQYMBaAFLsxVWLAhUiqI3ZaUQJ3ZRCWebm6\n"
    "MA8GA1UdEwEB/wQFMAMBAf8wFgYDVR0RBA8wDYILdGVzdC5ncnBjZmQwCgYIKoZI\n"
    "zj0EAwIDRwAwRAIgSEnMN3lFwY9qOnfHCzPsExC1WvTOzgoRLwix1E8OFCcCIEDe\n"
    "sYhPFlSF80zo8TlBAztCoL7aTEWs0HHJcTg1qo5D\n"
    "-----END CERTIFICATE-----\n";

inline constexpr char kTlsTestKey[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgIQrG8g2a6+Xk7iuD\n"
    "+c8uVXIsEfYLi7pYEO92Co8R5FuhRANCAAQ+j6Y0ytrbrvCHmAmaFlLkFKk0c7JE\n"
    "iWgv08R0dXCwCBwGXVkA2AuLYbduwwSYdHKnp8M8dg0hqg5gfCkPTgtz\n"
    "-----END PRIVATE KEY-----\n";

}  // namespace testing_internal
}  // namespace grpcfd

#endif  // GRPCFD_TESTS_INTERCEPTORS_TLS_TEST_KEYS_H_
