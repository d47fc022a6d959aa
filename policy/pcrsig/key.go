package pcrsig

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

// maxKeySize is the size in bytes above which a file with a public key is refused.
const maxKeySize = 64 << 10

// The sizes in bits of the RSA keys that TPMs know (TCG PC Client Platform TPM
// Profile; 1024 in old ones).
const minRSABits, maxRSABits = 1024, 4096

// ParsePublicKey parses a public key in PEM, as .pcrpkey, --public-key= and
// tpm2_pubkey have it. What stands around the first PEM block is passed over,
// as OpenSSL does. A key or block of another kind than RSA and PUBLIC KEY is an
// error that wraps [policy.ErrCannotTell]: systemd signs and verifies policies
// with RSA only (systemd 262, src/shared/tpm2-util.c: TPM2_ALG_RSASSA).
func ParsePublicKey(data []byte) (*rsa.PublicKey, error) {
	if len(data) > maxKeySize {
		return nil, fmt.Errorf("public key: more than %d bytes", maxKeySize)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("public key: no PEM block")
	}
	if block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("public key: PEM block %.40q: not supported (supported: PUBLIC KEY): %w", block.Type, policy.ErrCannotTell)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %.200s", err)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSABits || n > maxRSABits {
			return nil, fmt.Errorf("public key: RSA of %d bits: not supported (supported: %d to %d): %w", n, minRSABits, maxRSABits, policy.ErrCannotTell)
		}
		return key, nil
	case *ecdsa.PublicKey:
		return nil, fmt.Errorf("public key: EC %s: not supported, systemd verifies RSA only: %w", key.Params().Name, policy.ErrCannotTell)
	default:
		return nil, fmt.Errorf("public key: %T: not supported, systemd verifies RSA only: %w", key, policy.ErrCannotTell)
	}
}

// A Fingerprint names a key: the SHA-256 of its PKCS #1 RSAPublicKey in DER.
type Fingerprint [sha256.Size]byte

// String returns f in lower-case hexadecimal.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// KeyFingerprint returns the fingerprint of key.
func KeyFingerprint(key *rsa.PublicKey) Fingerprint {
	return sha256.Sum256(x509.MarshalPKCS1PublicKey(key))
}

// Verify returns nil if the signature of the entry is one of key over the
// policy, and over the SHA-256 of the reference if it has one. The fingerprint
// in the entry has to be that of key as well.
func (e *Entry) Verify(key *rsa.PublicKey) error {
	if f := KeyFingerprint(key); e.Key != f {
		return fmt.Errorf("signed by key %s, not %s", e.Key, f)
	}
	signed := e.Policy[:]
	if e.Ref != "" {
		ref := sha256.Sum256([]byte(e.Ref))
		signed = slices.Concat(signed, ref[:])
	}
	if verify(key, measure.SHA256, signed, e.Signature) {
		return nil
	}
	if verify(key, e.Bank, signed, e.Signature) {
		return fmt.Errorf("signature is over the %s digest of the policy, but is verified over the sha256 digest: systemd-measure before 260 signed so", e.Bank)
	}
	return fmt.Errorf("signature does not verify with key %s", e.Key)
}

// verify tells whether signature is RSASSA PKCS #1 v1.5 with the hash of bank.
func verify(key *rsa.PublicKey, bank measure.Bank, signed, signature []byte) bool {
	hash := map[measure.Bank]crypto.Hash{
		measure.SHA1: crypto.SHA1, measure.SHA256: crypto.SHA256, measure.SHA384: crypto.SHA384, measure.SHA512: crypto.SHA512,
	}[bank]
	return hash != 0 && rsa.VerifyPKCS1v15(key, hash, bank.Sum(signed), signature) == nil
}
