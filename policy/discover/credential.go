package discover

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/esp"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/creds"
)

// credstores are where systemd looks for encrypted credentials of services, in
// this order (systemd-path(1), system-search-credential-store-encrypted).
var credstores = []string{"/etc/credstore.encrypted", "/run/credstore.encrypted", "/usr/local/lib/credstore.encrypted", "/usr/lib/credstore.encrypted"}

// findCredentials returns the encrypted credentials that depend on PCRs.
func findCredentials(root fs.FS) ([]Found, error) {
	stored, err := storedCredentials(root)
	booted, bootErr := bootCredentials(root)
	return append(stored, booted...), errors.Join(err, bootErr)
}

// storedCredentials returns those for services. A name that is in several
// directories counts in the first.
func storedCredentials(root fs.FS) ([]Found, error) {
	var found []Found
	var errs []error
	seen := map[string]bool{}
	for _, dir := range credstores {
		entries, err := fs.ReadDir(root, dir[1:])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("encrypted credentials: %w", err))
		}
		for _, e := range entries {
			if e.IsDir() || seen[e.Name()] {
				continue
			}
			seen[e.Name()] = true
			name := path.Join(dir, e.Name())
			data, err := readRegular(root, name)
			f, ok := credential(name, data, err)
			if !ok {
				continue
			}
			// services start before sysinit.target too
			f.At, f.OrAt = inHost, []measure.Phase{sysinit, ready}
			f.Note = "wanted when a service that names it starts"
			found = append(found, f)
		}
	}
	return found, errors.Join(errs...)
}

// readRegular reads a file that may be a credential. Others, which might block,
// are not opened.
func readRegular(root fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(root, name[1:])
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file")
	}
	return readFile(root, name, creds.MaxSize)
}

// bootCredentials returns those that the stub passes to the initrd from the
// partition that it is started from, ESP or XBOOTLDR.
func bootCredentials(root fs.FS) ([]Found, error) {
	espDir, xbootldrDir, err := esp.Mounted(root)
	if err != nil {
		return nil, fmt.Errorf("credentials on the ESP: %w", err)
	}
	var found []Found
	var errs []error
	for _, dir := range []string{espDir, xbootldrDir} {
		if dir == "" {
			continue
		}
		partition, err := fs.Sub(root, dir[1:])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files, err := esp.OpenDir(partition, stub.CredentialsDir, func(name string) bool { return stub.HasSuffix(name, stub.SuffixCredential) })
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dir, err))
			continue
		}
		for _, file := range files {
			data, err := io.ReadAll(io.LimitReader(file, creds.MaxSize+1))
			f, ok := credential(path.Join(dir, file.Path), data, err)
			if !ok {
				continue
			}
			// by the first process of the initrd, or by any service
			f.At, f.OrAt = "", measure.DefaultPhases()
			f.Note = "wanted when a service that names it starts, if the image is on this partition"
			found = append(found, f)
		}
		errs = append(errs, files.Close())
	}
	return found, errors.Join(errs...)
}

// credential returns what is known of a file with a credential; ok is false if
// it does not depend on PCRs. err is why there is no data.
func credential(name string, data []byte, err error) (f Found, ok bool) {
	f = Found{Name: printable(name), Source: policy.Source{Kind: SourceCredential, Path: name}}
	var c *creds.Credential
	if err == nil {
		c, err = creds.Parse(data)
	}
	if err != nil {
		if f.Err = err; !errors.Is(err, policy.ErrCannotTell) {
			f.Err = cannotTell("%v", err)
		}
		return f, true
	}
	return f, c.Policy != nil && c.Policy.IsBound()
}
