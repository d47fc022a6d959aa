package measure

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"strings"
)

// A Bank is a set of PCRs that share a hash algorithm. Its value is the
// TPM_ALG_ID of that algorithm (TCG Algorithm Registry, table 3).
type Bank uint16

// The banks that systemd-stub, systemd and mkexec know.
const (
	SHA1   Bank = 0x0004
	SHA256 Bank = 0x000B
	SHA384 Bank = 0x000C
	SHA512 Bank = 0x000D
)

// Banks returns every known bank, in the order in which systemd-measure prints them.
func Banks() []Bank { return []Bank{SHA1, SHA256, SHA384, SHA512} }

// ParseBank returns the bank that systemd's tools call s: sha1, sha256, sha384
// or sha512, in lower case. Any other name is an error.
func ParseBank(s string) (Bank, error) {
	for _, b := range Banks() {
		if s == b.String() {
			return b, nil
		}
	}
	return 0, fmt.Errorf("bank %.32q: unknown (known: %s)", s, BankNames(Banks()))
}

// BankNames returns the names of banks, with spaces between them, for messages.
func BankNames(banks []Bank) string {
	var names []string
	for _, b := range banks {
		names = append(names, b.String())
	}
	return strings.Join(names, " ")
}

// String returns the name of the bank, or alg_0x…… if it is not known.
func (b Bank) String() string {
	switch b {
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	case SHA512:
		return "sha512"
	}
	return fmt.Sprintf("alg_0x%04x", uint16(b))
}

// Size returns the size of the bank's digests in bytes, 0 if the bank is not known.
func (b Bank) Size() int {
	switch b {
	case SHA1:
		return sha1.Size
	case SHA256:
		return sha256.Size
	case SHA384:
		return sha512.Size384
	case SHA512:
		return sha512.Size
	}
	return 0
}

// New returns a new hash of the bank's algorithm. It panics if the bank is not
// known, which a Bank from ParseBank always is.
func (b Bank) New() hash.Hash {
	switch b {
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	}
	panic("measure: no hash for " + b.String())
}

// Sum returns the digest of data in the bank.
func (b Bank) Sum(data []byte) Digest {
	h := b.New()
	h.Write(data)
	return h.Sum(nil)
}

// MarshalText returns the name of the bank.
func (b Bank) MarshalText() ([]byte, error) {
	if b.Size() == 0 {
		return nil, fmt.Errorf("bank %s: unknown", b)
	}
	return []byte(b.String()), nil
}

// UnmarshalText parses the name of a bank as ParseBank does.
func (b *Bank) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBank(string(text))
	return err
}
