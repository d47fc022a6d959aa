package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/measure/stub"
)

// A start is one way in which the image may be started, and what it leads to.
type start struct {
	name string // startKexec, startCold
	*measure.Prediction
	userspace *userspace
	err       error // why it cannot be told; the rest is nil then
}

// coldStart tells what a start by firmware leads to. It may differ from that of
// the kexec p in more than the PCRs that it begins with: a boot loader measures
// the options of its entry, a bare kernel is not measured by systemd-stub, and
// systemd may be silent after one of the two only.
func (c *checker) coldStart(m *image, p *prediction, j *judgement) *start {
	s := &start{name: startCold, userspace: p.userspace}
	other := c.imageFlags
	if c.via == string(stub.ViaKexec) {
		other.via = string(stub.ViaFirmware)
		if m.entry != nil {
			other.via = string(stub.ViaSystemdBoot)
		}
	}
	boot, events := p.boot, p.Prediction
	if other.via != c.via && (m.entry != nil || m.uki == nil) {
		n := *m
		if n.opts, s.err = other.options(c.sys, &n); s.err != nil {
			return s
		}
		if boot, s.err = n.load(); s.err != nil {
			return s
		}
		m = &n
		zero := measure.Zero(p.Base.Banks(), measure.StubPCRs()...)
		if events, s.err = measure.Predict(&boot.Image, measure.Options{Base: zero}); s.err != nil {
			return s
		}
	}
	if s.Prediction, s.err = events.From(c.coldBase(p.Base.Banks(), m, boot, j)); s.err != nil {
		return s
	}
	if boot != p.boot || p.userspace.silent && c.measuresHere() {
		if s.userspace, s.err = other.findUserspace(c.sys, m, boot); s.err != nil {
			return s
		}
	}
	s.OSSeparator = s.userspace.separator
	return s
}

// coldBase returns the PCRs before the image is started by firmware: PCRs 11 to
// 13 are zero, and the others are what the firmware's log of this boot says, or
// not known.
func (c *checker) coldBase(banks []measure.Bank, m *image, boot *stub.Boot, j *judgement) measure.PCRs {
	base := measure.Zero(banks, measure.StubPCRs()...)
	log := c.firmwareLog()
	if log == nil {
		return base
	}
	known := coldPCRs(log, m.uki != nil && boot.Stub.Major >= smbiosSince, j)
	for _, b := range banks {
		replayed, err := log.Replay(b)
		if err != nil {
			continue
		}
		for _, n := range known {
			if d := replayed[b][n]; d != nil {
				base.Set(b, n, d)
			}
		}
	}
	return base
}

// firmwareLog returns the firmware's log of this boot, nil if there is none that
// can be read.
func (c *checker) firmwareLog() *eventlog.Firmware {
	f, err := c.sys.root.Open(firmwareLogPath)
	if err != nil {
		return nil
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, eventlog.MaxFirmware+1))
	if err != nil {
		return nil
	}
	log, err := eventlog.ParseFirmware(raw)
	if err != nil {
		return nil
	}
	return log
}

// Of the firmware's log (TCG PC Client Platform Firmware Profile, 10.4.1 "Event
// Types"; spec/sd-stub.md 0, "Event tags").
const (
	eventVariableAuthority measure.EventType = 0x800000E0 // EV_EFI_VARIABLE_AUTHORITY
	eventTag               measure.EventType = 0x00000006 // EV_EVENT_TAG

	// smbiosSince is the version of systemd-stub that first measures the SMBIOS.
	smbiosSince = 261
)

var smbiosTags = []uint32{0xD5CB7CBC, 0xE0D47BC8, 0xC0B3BD23}

// coldPCRs are those of firmware that are the same when it starts the image as
// they are in the log of this boot. PCRs 4 and 9 depend on what is started, and
// two more may do so:
//
//   - PCR 1 has the SMBIOS where systemd-stub or systemd-boot is new enough;
//     measuresSMBIOS tells whether the image's is.
//   - PCR 7 has, under Secure Boot, each certificate that vouched for something
//     when it first did so. It stays the same if the one that vouches for the image
//     is the last one there.
func coldPCRs(log *eventlog.Firmware, measuresSMBIOS bool, j *judgement) []measure.PCR {
	known := []measure.PCR{0, 2, 3, 5, 6, 14}
	var smbios bool
	var authority []byte // the last one
	for _, ev := range log.Events {
		switch {
		case ev.PCR == 1 && ev.Type == eventTag && len(ev.Data) >= 4:
			smbios = smbios || slices.Contains(smbiosTags, binary.LittleEndian.Uint32(ev.Data))
		case ev.PCR == 7 && ev.Type == eventVariableAuthority:
			authority = ev.Data
		}
	}
	if smbios == measuresSMBIOS {
		known = append(known, 1)
	}
	vouched := j != nil && j.Verdict != nil && j.Anchor != nil && j.Anchor.Certificate != nil && bytes.Contains(authority, j.Anchor.Certificate.Raw)
	if authority == nil || vouched {
		known = append(known, 7)
	}
	return known
}
