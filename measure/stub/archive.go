package stub

import (
	"fmt"
	"math"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// archives are the archives that the stub makes of sidecars, in the order in
// which it measures them and puts them into the initrd (systemd 262,
// src/boot/stub.c, generate_sidecar_initrds; the modes in src/boot/cpio.c,
// cpio_target_*).
var archives = []struct {
	description       string // the event data
	files             func(*Sidecars) []File
	suffix            string
	dir               string
	dirMode, fileMode uint32
	pcr               measure.PCR
	since             int
}{
	{"Credentials initrd", ofImage, SuffixCredential, ".extra/credentials", 0o500, 0o400, measure.PCRKernelConfig, 252},
	{"Global credentials initrd", ofCredentials, SuffixCredential, ".extra/global_credentials", 0o500, 0o400, measure.PCRKernelConfig, 252},
	{"System extension initrd", ofImage, SuffixExtension, ".extra/sysext", 0o555, 0o444, measure.PCRSystemExtensions, 252},
	{"Global system extension initrd", ofExtensions, SuffixExtension, ".extra/global_sysext", 0o555, 0o444, measure.PCRSystemExtensions, 258},
	{"Configuration extension initrd", ofImage, SuffixConfext, ".extra/confext", 0o555, 0o444, measure.PCRKernelConfig, 256},
	{"Global configuration extension initrd", ofExtensions, SuffixConfext, ".extra/global_confext", 0o555, 0o444, measure.PCRKernelConfig, 258},
}

func ofImage(s *Sidecars) []File       { return s.Image }
func ofCredentials(s *Sidecars) []File { return s.Credentials }
func ofExtensions(s *Sidecars) []File  { return s.Extensions }

// addArchives measures the archives and returns their pieces.
func (b *Boot) addArchives(sidecars *Sidecars) ([][]measure.Content, error) {
	var parts [][]measure.Content
	for _, a := range archives {
		if a.since > b.Stub.Major {
			continue
		}
		exclude := ""
		if a.suffix == SuffixExtension && b.Stub.Major >= 256 { // before, confexts were not known
			exclude = SuffixConfext
		}
		var files []File
		for _, f := range pick(a.files(sidecars), a.suffix, exclude) {
			if f.Content.Size() > math.MaxUint32 {
				return nil, fmt.Errorf("%s: %d bytes: more than an archive can hold (%d)", f.Name, f.Content.Size(), uint32(math.MaxUint32))
			}
			files = append(files, f)
		}
		if len(files) == 0 {
			continue
		}
		pieces := Archive(a.dir, a.dirMode, a.fileMode, files...)
		b.measureArchive(a.description, a.pcr, files, pieces)
		parts = append(parts, pieces)
	}
	return parts, nil
}

// measureArchive measures the pieces of an archive of files.
func (b *Boot) measureArchive(description string, pcr measure.PCR, files []File, pieces []measure.Content) {
	b.Measurements = append(b.Measurements, measure.Measurement{
		PCR: pcr, Type: measure.EventIPL, Data: utf16z(toUTF16(description)),
		Description: fmt.Sprintf("%s: %s", description, names(files)), Content: concat(pieces),
	})
}

// names lists the names of files for people.
func names(files []File) string {
	const most = 4
	var list []string
	for _, f := range files[:min(len(files), most)] {
		list = append(list, f.Name)
	}
	if more := len(files) - most; more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return strings.Join(list, ", ")
}
