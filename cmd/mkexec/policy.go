package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/mkexec/mkexec/policy"
)

// defaultPolicy is where the policy of a machine is.
const defaultPolicy = "/etc/mkexec/policy.yaml"

// readPolicy reads and parses a policy file.
func readPolicy(path string) (policy.Requirements, error) {
	f, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("policy: %w", err), "name a policy with --policy=FILE; mkexec(8) says what is in one")
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, policy.MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	rs, err := policy.Parse(data)
	return rs, inFile(path, err)
}
