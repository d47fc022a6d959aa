package tpm2

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

// Algorithms (TCG Algorithm Registry, table 3).
const (
	algRSA    = 0x0001
	algSHA256 = 0x000B
	algNull   = 0x0010
	algECC    = 0x0023
)

// keyAttributes are userWithAuth, decrypt and sign, which systemd gives the keys that
// sign policies (systemd 262, src/shared/tpm2-util.c, tpm2_tpm2b_public_from_openssl_pkey()).
const keyAttributes = 0x00060040

// RSAKeyName returns the Name of an RSA key that signs systemd policies (TPM 2.0
// Library Part 1, 16 "Names"; the public area is that of systemd, the same file).
//
// exponent is what stands in the public area: the exponent of the key, or zero,
// which the TPM takes for 65537 but which gives another Name. systemd 255.0 to
// 255.2 wrote zero for 65537; others write the exponent itself.
func RSAKeyName(key *rsa.PublicKey, exponent uint32) []byte {
	n := key.N.Bytes()
	parameters := binary.BigEndian.AppendUint16(nil, uint16(8*len(n))) // keyBits, as systemd counts them
	parameters = binary.BigEndian.AppendUint32(parameters, exponent)
	return keyName(algRSA, parameters, n)
}

// curveID returns the TPM_ECC_CURVE of a curve (TCG Algorithm Registry, table
// 4), 0 if it has none.
func curveID(curve elliptic.Curve) uint16 {
	switch curve {
	case elliptic.P224():
		return 2
	case elliptic.P256():
		return 3
	case elliptic.P384():
		return 4
	case elliptic.P521():
		return 5
	}
	return 0
}

// ECCKeyName is RSAKeyName for an elliptic curve key. It fails if the key is not
// a point on its curve.
//
// systemd can put such a key into a policy, but to 262 it cannot verify what the
// key signs: its signatures are RSASSA.
func ECCKeyName(key *ecdsa.PublicKey) ([]byte, error) {
	curve := curveID(key.Curve)
	if curve == 0 {
		return nil, fmt.Errorf("elliptic curve: unknown: %w", policy.ErrCannotTell)
	}
	point, err := key.Bytes() // 04 ‖ x ‖ y
	if err != nil {
		return nil, fmt.Errorf("elliptic curve key: %w", err)
	}
	size := len(point) / 2
	parameters := binary.BigEndian.AppendUint16(nil, curve)
	parameters = binary.BigEndian.AppendUint16(parameters, algNull) // KDF
	return keyName(algECC, parameters, point[1:1+size], point[1+size:]), nil
}

// keyName returns the Name of a TPMT_PUBLIC (Part 2, 12.2.4) without authPolicy,
// symmetric algorithm and scheme, whose parameters end with these.
func keyName(alg uint16, parameters []byte, unique ...[]byte) []byte {
	public := binary.BigEndian.AppendUint16(nil, alg)
	public = binary.BigEndian.AppendUint16(public, algSHA256)
	public = binary.BigEndian.AppendUint32(public, keyAttributes)
	public = binary.BigEndian.AppendUint16(public, 0)       // authPolicy
	public = binary.BigEndian.AppendUint16(public, algNull) // symmetric
	public = binary.BigEndian.AppendUint16(public, algNull) // scheme
	public = append(public, parameters...)
	for _, u := range unique {
		public = binary.BigEndian.AppendUint16(public, uint16(len(u)))
		public = append(public, u...)
	}
	return name(measure.SHA256, public)
}

// name returns nameAlg ‖ H(public).
func name(alg measure.Bank, public []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(alg)), alg.Sum(public)...)
}

// nvWritten is TPMA_NV_WRITTEN (Part 2, 13.4 "TPMA_NV").
const nvWritten = 0x20000000

// The offsets in a TPMS_NV_PUBLIC (Part 2, 13.5): nvIndex, nameAlg, attributes,
// the size of authPolicy, authPolicy, dataSize.
const (
	nvNameAlg    = 4
	nvAttributes = 6
	nvPolicySize = 10
	nvPolicy     = 12
)

// NVName returns the Name of an NV index from its TPMS_NV_PUBLIC. With written,
// it is the Name after the first write to the index, whatever public says: the
// first write changes the attributes, and so the Name.
func NVName(public []byte, written bool) ([]byte, error) {
	if len(public) < nvPolicy {
		return nil, fmt.Errorf("NV public area of %d bytes: too short", len(public))
	}
	if want := nvPolicy + int(binary.BigEndian.Uint16(public[nvPolicySize:])) + 2; len(public) != want {
		return nil, fmt.Errorf("NV public area of %d bytes, not %d as its policy's size has it", len(public), want)
	}
	alg := measure.Bank(binary.BigEndian.Uint16(public[nvNameAlg:]))
	if alg.Size() == 0 {
		return nil, fmt.Errorf("NV public area: name algorithm %s: unknown: %w", alg, policy.ErrCannotTell)
	}
	public = slices.Clone(public)
	if written {
		attributes := binary.BigEndian.Uint32(public[nvAttributes:])
		binary.BigEndian.PutUint32(public[nvAttributes:], attributes|nvWritten)
	}
	return name(alg, public), nil
}
