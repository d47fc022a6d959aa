package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mkexec/mkexec/policy/trust/efivar"
	"github.com/mkexec/mkexec/policy/trust/sbat"
)

// A Store is what this machine's firmware and shim trust and revoke.
type Store struct {
	// SecureBoot: the firmware enforces Secure Boot. SetupMode: anyone may change
	// its keys.
	SecureBoot, SetupMode bool
	// Insecure: shim was told not to verify anything (MokSBState).
	Insecure bool
	// IgnoreDB: shim was told not to trust what is in db (MokDBState).
	IgnoreDB bool

	// DB and DBX are the firmware's databases, MokList and MokListX shim's, its
	// built-in certificates included.
	DB, DBX, MokList, MokListX efivar.Database
	// Level is what shim demands by SBAT. Without shim it is empty.
	Level sbat.Level
}

// ReadStore reads the EFI variables below root, the file system's root
// directory. Without EFI the store is empty. A variable that is not what
// firmware or shim makes is an error: root may have made it.
func ReadStore(root fs.FS) (*Store, error) {
	present, err := efivar.Present(root)
	if !present {
		return &Store{}, err
	}
	shim, err := efivar.OpenShim(root)
	if err != nil {
		return nil, err
	}
	s := &Store{}
	global := func(name string) func() (bool, error) {
		return func() (bool, error) { return efivar.ReadFlag(root, name, efivar.GlobalGUID, efivar.Volatile) }
	}
	for _, flag := range []struct {
		to   *bool
		read func() (bool, error)
	}{
		{&s.SecureBoot, global("SecureBoot")},
		{&s.SetupMode, global("SetupMode")},
		{&s.Insecure, func() (bool, error) { return shim.ReadFlag("MokSBStateRT") }},
		{&s.IgnoreDB, func() (bool, error) { return shim.ReadFlag("MokIgnoreDB") }},
	} {
		if *flag.to, err = flag.read(); err != nil {
			return nil, err
		}
	}
	if s.DB, err = efivar.ReadDatabase(root, "db"); err != nil {
		return nil, err
	}
	if s.DBX, err = efivar.ReadDatabase(root, "dbx"); err != nil {
		return nil, err
	}
	if s.MokList, err = shim.ReadDatabase("MokListRT"); err != nil {
		return nil, err
	}
	if s.MokListX, err = shim.ReadDatabase("MokListXRT"); err != nil {
		return nil, err
	}
	level, err := shim.Read("SbatLevelRT")
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if s.Level, err = sbat.ParseLevel(level); err != nil {
		return nil, fmt.Errorf("EFI variable SbatLevelRT: %w", err)
	}
	return s, nil
}

// Enforced tells whether this machine's firmware and shim verify what they
// start: Secure Boot is on, and neither the firmware nor shim is told to let
// everything pass (rhboot/shim, shim.c, secure_mode; Linux,
// drivers/firmware/efi/libstub/secureboot.c).
func (s *Store) Enforced() bool { return s.SecureBoot && !s.SetupMode && !s.Insecure }

// An Anchor is why something is trusted or revoked: an entry of a database.
type Anchor struct {
	// Source is "db", "dbx", "MokListRT", "MokListXRT", or what Options.Anchors
	// are from, "--trust".
	Source string
	// Certificate is nil if the entry is a digest of the image.
	Certificate *x509.Certificate
}

// String names the certificate, if there is one, and where it is.
func (a Anchor) String() string {
	if a.Certificate == nil {
		return "image digest in " + a.Source
	}
	return fmt.Sprintf("%s in %s", name(a.Certificate), a.Source)
}

// name returns the certificate's subject.
func name(c *x509.Certificate) string { return fmt.Sprintf("%.120q", c.Subject.String()) }

const sourceTrust = "--trust"

// anchors returns the certificates that are trusted. Those in db and MokListRT
// that cannot be parsed vouch for nothing.
func (s *Store) anchors(opts Options) []Anchor {
	var all []Anchor
	for _, d := range s.trusted() {
		for _, der := range d.db.Certificates {
			if c, err := x509.ParseCertificate(der); err == nil && usable(c) {
				all = append(all, Anchor{d.source, c})
			}
		}
	}
	for _, c := range opts.Anchors {
		if usable(c) {
			all = append(all, Anchor{sourceTrust, c})
		}
	}
	return all
}

type database struct {
	source string
	db     efivar.Database
}

func (s *Store) trusted() []database {
	if s.IgnoreDB {
		return []database{{"MokListRT", s.MokList}}
	}
	return []database{{"db", s.DB}, {"MokListRT", s.MokList}}
}

func (s *Store) revoking() []database {
	return []database{{"dbx", s.DBX}, {"MokListXRT", s.MokListX}}
}

// revoked returns the certificates that are revoked. It has to understand all
// of the databases.
func (s *Store) revoked() ([]Anchor, error) {
	var all []Anchor
	for _, d := range s.revoking() {
		if len(d.db.Unknown) > 0 {
			return nil, fmt.Errorf("%s: signature type %v: unknown", d.source, d.db.Unknown[0])
		}
		for i, der := range d.db.Certificates {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("%s: certificate %d: %w", d.source, i, err)
			}
			all = append(all, Anchor{d.source, c})
		}
	}
	return all, nil
}
