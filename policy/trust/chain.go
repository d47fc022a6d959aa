package trust

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"time"
)

var (
	// oidModuleSigning marks a certificate that vouches for kernel modules only:
	// shim passes over it (verify.c, verify_eku).
	oidModuleSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 2312, 16, 1, 2}
	// oidNetscapeType is a critical extension in Debian's CA. OpenSSL, and so
	// firmware and shim, knows it; with "any purpose" it restricts nothing.
	oidNetscapeType = asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 1, 1}
)

// minRSABits is the size below which RSA keys are not accepted.
const minRSABits = 2048

// timeless returns a copy of the certificate that is valid at any time. Neither
// EDK2 nor shim nor Linux has a clock to trust, and none of them checks (EDK2,
// CryptPkcs7VerifyCommon.c, Pkcs7Verify: X509_V_FLAG_NO_CHECK_TIME).
func timeless(c *x509.Certificate) *x509.Certificate {
	t := *c
	t.NotBefore, t.NotAfter = time.Time{}, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	t.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(c.UnhandledCriticalExtensions), oidNetscapeType.Equal)
	return &t
}

// chains returns the chains from the signer to any of the roots, through the
// certificates in the signature. As in EDK2 and shim any certificate can be a
// root, the signer's own included (X509_V_FLAG_PARTIAL_CHAIN), and what the
// certificates say of their purpose does not matter (X509_PURPOSE_ANY).
func (s *signature) chains(roots []*x509.Certificate) [][]*x509.Certificate {
	opts := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, c := range roots {
		opts.Roots.AddCert(timeless(c))
	}
	for _, c := range s.embedded {
		opts.Intermediates.AddCert(timeless(c))
	}
	chains, _ := timeless(s.signer).Verify(opts) // without one, it is not trusted
	return chains
}

// issuers returns the signer's certificate and those in the signature that
// issued it, directly or not.
func (s *signature) issuers() []*x509.Certificate {
	found := []*x509.Certificate{s.signer}
	for i := 0; i < len(found); i++ { // found grows
		for _, c := range s.embedded {
			if !slices.Contains(found, c) && bytes.Equal(found[i].RawIssuer, c.RawSubject) && found[i].CheckSignatureFrom(c) == nil {
				found = append(found, c)
			}
		}
	}
	return found
}

// usable tells whether shim takes the certificate as an anchor for images.
func usable(anchor *x509.Certificate) bool {
	return !slices.ContainsFunc(anchor.UnknownExtKeyUsage, oidModuleSigning.Equal)
}

// weakKey returns the first certificate of a chain with a key that is too short, or nil.
func weakKey(chain []*x509.Certificate) *x509.Certificate {
	for _, c := range chain {
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSABits {
			return c
		}
	}
	return nil
}
