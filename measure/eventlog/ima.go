package eventlog

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// An IMA is what matters here of the measurement list that the kernel keeps of
// what it extends PCR 10 with.
type IMA struct {
	// Count is the number of records.
	Count int
	// Kexec are those of kernels that were offered for a kexec, of command lines
	// that one was loaded with, and of kexecs that were carried out.
	Kexec []IMARecord
}

// An IMARecord is one record of IMA's.
type IMARecord struct {
	Number int    // from 1 on
	Digest string // of the file or buffer, ALGORITHM:HEX
	Name   string // of the file or buffer
	Data   string // the buffer, if it is recorded, as kexec-cmdline is
}

// maxIMALine bounds a line of the list, in bytes. Signatures and buffers are in it.
const maxIMALine = 1 << 20

// imaKexec are names that the kernel gives to what it measures for a kexec (Linux
// 6.16, security/integrity/ima/ima_kexec.c and ima_main.c, ima_kexec_cmdline()).
var imaKexec = map[string]bool{"kexec-cmdline": true, "kexec_load": true, "kexec_execute": true}

// ParseIMA reads /sys/kernel/security/ima/ascii_runtime_measurements: a line for
// each record, with PCR, template digest, template, and the fields of that (Linux,
// Documentation/security/IMA-templates.rst). Digest and name are looked for where
// ima-ng and the templates that extend it have them.
func ParseIMA(r io.Reader) (*IMA, error) {
	l := &IMA{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxIMALine)
	for s.Scan() {
		l.Count++
		f := strings.Split(s.Text(), " ")
		if len(f) < 5 {
			return nil, fmt.Errorf("IMA: record %d: %.80q: fewer than 5 fields", l.Count, s.Text())
		}
		name := f[4]
		if !strings.HasPrefix(name, "memfd:") && !imaKexec[name] {
			continue
		}
		k := IMARecord{Number: l.Count, Digest: f[3], Name: name}
		if f[2] == "ima-buf" && len(f) > 5 {
			data, err := hex.DecodeString(f[5])
			if err != nil {
				return nil, fmt.Errorf("IMA: record %d: buffer %.80q: not hexadecimal", l.Count, f[5])
			}
			k.Data = string(data)
		}
		l.Kexec = append(l.Kexec, k)
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return nil, fmt.Errorf("IMA: record %d: longer than %d bytes", l.Count+1, maxIMALine)
	}
	return l, s.Err()
}
