// Copyright 2026 The grpcfd Authors
// SPDX-License-Identifier: Apache-2.0

package inband

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Inode names an open file on this wire: device and inode number, as fstat(2) gives them. It is a name, not an
// identity: all eventfds have the same one.
type Inode struct {
	Dev, Ino uint64
}

// URL is how a message names the descriptor.
func (i Inode) URL() string { return fmt.Sprintf("inode://%d/%d", i.Dev, i.Ino) }

// InodeOf asks the kernel.
func InodeOf(fd int) (Inode, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return Inode{}, fmt.Errorf("fstat: %w", err)
	}
	return Inode{Dev: stat.Dev, Ino: stat.Ino}, nil
}

// ParseURL reads inode://dev/ino. A query is ignored.
func ParseURL(text string) (Inode, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return Inode{}, err
	}
	if parsed.Scheme != "inode" {
		return Inode{}, fmt.Errorf("%q is no inode URL: the scheme is %q", text, parsed.Scheme)
	}
	dev, err := strconv.ParseUint(parsed.Host, 10, 64)
	if err != nil {
		return Inode{}, fmt.Errorf("%q: device: %w", text, err)
	}
	ino, err := strconv.ParseUint(strings.TrimPrefix(parsed.Path, "/"), 10, 64)
	if err != nil {
		return Inode{}, fmt.Errorf("%q: inode: %w", text, err)
	}
	return Inode{Dev: dev, Ino: ino}, nil
}
