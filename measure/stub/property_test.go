package stub_test

// These tests check what is true of every image with every sidecar, without
// knowing what is right for a single one. They do not change extra files of
// entries, which TestEntryFiles does, and do not have .dtbauto and .efifw
// that are selected, which needs a machine; see package hwid.

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// since is the version that knew a section first (specification, 1.2).
var since = map[string]int{".linux": 252, ".osrel": 252, ".cmdline": 252, ".initrd": 252, ".ucode": 256, ".splash": 252, ".dtb": 252, ".uname": 254,
	".sbat": 254, ".pcrpkey": 252, ".profile": 257, ".dtbauto": 257, ".hwids": 257, ".efifw": 258}

// A trial is one random image with its sidecars.
type trial struct {
	seed     uint64
	version  int
	sections []ukitest.Section
	image    []byte
	opts     stub.Options
}

func (x *trial) String() string {
	var names []string
	for _, s := range x.sections {
		names = append(names, fmt.Sprintf("%s:%d", s.Name, max(len(s.Data), int(s.VirtualSize))))
	}
	return fmt.Sprintf("seed %d: version %d, sections %v, via %s, profile %q", x.seed, x.version, names, x.opts.Via, x.opts.Profile)
}

// letters are random lower-case letters, so that no cpio header and no blank is in them.
func letters(r *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte('a' + 2*r.IntN(13)) // flipping the lowest bit gives another letter
	}
	return b
}

func newTrial(t *testing.T, seed uint64) *trial {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 257))
	x := &trial{seed: seed, version: 252 + r.IntN(11)}
	names := append(slices.Clone(order), ".pcrsig", ".vendor", ".initrd2", ".text2", ".sbat")
	x.sections = []ukitest.Section{{Name: ".linux", Data: letters(r, 1+r.IntN(100))}}
	for range r.IntN(16) {
		s := ukitest.Section{Name: names[r.IntN(len(names))], Data: letters(r, r.IntN(3)*r.IntN(400))}
		if r.IntN(5) == 0 {
			s.VirtualSize = uint32(r.IntN(900))
		}
		if (s.Name == ".dtbauto" || s.Name == ".efifw" || s.Name == ".hwids") && r.IntN(8) > 0 {
			s.Data, s.VirtualSize = nil, 0
		}
		x.sections = append(x.sections, s)
	}
	r.Shuffle(len(x.sections), func(i, j int) { x.sections[i], x.sections[j] = x.sections[j], x.sections[i] })
	x.image = build(t, fmt.Sprint(x.version), x.sections...)

	x.opts = stub.Options{Via: stub.Vias()[r.IntN(3)], ConfidentialVM: r.IntN(5) == 0}
	if r.IntN(2) == 0 {
		x.opts.Cmdline = new("passed " + string(letters(r, 4)))
	}
	if r.IntN(3) == 0 {
		x.opts.Profile = fmt.Sprint(r.IntN(2))
	}
	if r.IntN(2) == 0 {
		x.opts.SMBIOSCmdline = "smbios " + string(letters(r, 4))
	}
	if r.IntN(5) == 0 { // then all addons need an answer
		x.opts.SecureBoot = true
		x.opts.AcceptAddon = func(name string, f *uki.File) (bool, error) { return len(name)%3 > 0, nil }
	}
	x.opts.Sidecars = stub.Sidecars{Image: randomFiles(t, r), Addons: randomFiles(t, r), Credentials: randomFiles(t, r), Extensions: randomFiles(t, r)}
	if x.version >= 261 && r.IntN(2) == 0 { // what older ones make of these cannot be told
		x.opts.Sidecars.Entry = randomFiles(t, r)
	}
	return x
}

// randomFiles makes files with different names.
func randomFiles(t *testing.T, r *rand.Rand) []stub.File {
	byName := map[string]stub.File{}
	for range r.IntN(7) {
		name := string(letters(r, 1+r.IntN(3))) + []string{".cred", ".CRED", ".raw", ".confext.raw", ".sysext.raw", ".addon.efi", ".addon.efi", ".txt"}[r.IntN(8)]
		contents := letters(r, r.IntN(3)*r.IntN(300))
		if strings.HasSuffix(name, ".addon.efi") {
			var sections []ukitest.Section
			for range r.IntN(4) {
				section := []string{".cmdline", ".cmdline", ".initrd", ".ucode", ".dtb", ".uname", ".vendor", ".linux"}[r.IntN(8)]
				data := letters(r, 12+r.IntN(50)) // long enough to be found again
				if section == ".cmdline" {
					data = append([]byte("addon "), data...)
				}
				if section == ".uname" && r.IntN(2) == 0 {
					continue
				}
				sections = append(sections, ukitest.Section{Name: section, Data: data})
			}
			contents = build(t, "262", sections...)
		}
		byName[name] = stub.File{Name: name, Content: measure.Bytes(contents)}
	}
	return slices.Collect(maps.Values(byName)) // in no order
}

// load returns nil for an image that must not load, and checks that the error is
// one of those that are expected.
func (x *trial) load(t *testing.T) *stub.Boot {
	t.Helper()
	b, err := loadBytes(x.image, x.opts)
	if err == nil {
		return b
	}
	known := errors.Is(err, stub.ErrCannotTell) || errors.Is(err, stub.ErrCmdlineRefused)
	for _, s := range []string{"no .linux section", "section .hwids: ", "profile \"1\": ", "profile \"0\": ", "load options: "} {
		known = known || strings.HasPrefix(err.Error(), s)
	}
	if !known || b != nil {
		t.Fatalf("%v: %v, %v", x, b, err)
	}
	return nil
}

// summary is all that a Boot says, with contents in place of their places.
func summary(t testing.TB, b *stub.Boot) string {
	t.Helper()
	var s strings.Builder
	for _, m := range b.Measurements {
		fmt.Fprintf(&s, "%d %v %x %s %q\n", m.PCR, m.Type, m.Data, m.Description, read(t, m.Content))
	}
	fmt.Fprintf(&s, "%v %d %q %q %q\n%q\n%q", b.Stub, b.Profile, b.Devicetrees, b.Ignored, b.Cmdline, read(t, b.Kernel), read(t, b.Initrd...))
	return s.String()
}

// digests are the PCRs that the measurements lead to.
func digests(t testing.TB, b *stub.Boot) map[measure.PCR]measure.Digest {
	t.Helper()
	p, err := measure.Predict(&b.Image, measure.Options{Base: measure.Zero([]measure.Bank{measure.SHA256}, measure.StubPCRs()...)})
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := p.At("")
	if err != nil {
		t.Fatal(err)
	}
	return pcrs[measure.SHA256]
}

func TestProperties(t *testing.T) {
	t.Parallel()
	loaded := map[int]int{}
	flips := map[measure.PCR]int{}
	for seed := range uint64(1000) {
		x := newTrial(t, seed)
		b := x.load(t)
		if b == nil {
			continue
		}
		loaded[x.version]++
		x.checkSections(t, b)
		x.checkOrder(t, b)
		x.checkInitrd(t, b)
		x.checkSame(t, b)
		x.checkFlips(t, b, flips)
	}
	for version := 252; version <= 262; version++ {
		if loaded[version] < 40 {
			t.Errorf("only %d images of version %d loaded", loaded[version], version)
		}
	}
	if flips[0] < 200 || flips[12] < 700 || flips[13] < 200 {
		t.Errorf("flipped bytes that change PCR 12, 13 or none: %v", flips)
	}
}

// checkSections: PCR 11 has a pair of events for each section that is used, in
// canonical order, and for nothing else.
func (x *trial) checkSections(t *testing.T, b *stub.Boot) {
	t.Helper()
	var names []string
	for _, pair := range strings.Split(measured(t, b), " ") {
		name, contents, _ := strings.Cut(pair, "=")
		if since[name] == 0 || since[name] > x.version {
			t.Fatalf("%v: measures %s", x, name)
		}
		if !slices.ContainsFunc(x.sections, func(s ukitest.Section) bool {
			return strings.HasPrefix(s.Name, name) && (len(s.Data) > 0 || s.VirtualSize > 0) && strings.HasPrefix(string(s.Data), contents)
		}) {
			t.Fatalf("%v: measures %s, which it does not have", x, name)
		}
		names = append(names, name)
	}
	last := -1
	for _, name := range names {
		if i := slices.Index(order, name); i <= last {
			t.Fatalf("%v: measures %v: not in order, or twice", x, names)
		} else {
			last = i
		}
	}
	// A section that is there once, and not in a profile, is measured.
	count := map[string]int{}
	for _, s := range x.sections {
		for name := range since {
			if strings.HasPrefix(s.Name, name) {
				count[name]++
			}
		}
	}
	for _, s := range x.sections {
		if x.version >= 257 && count[".profile"] > 0 || count[s.Name] != 1 || len(s.Data) == 0 || since[s.Name] == 0 || since[s.Name] > x.version {
			continue
		}
		if !slices.Contains(names, s.Name) {
			t.Fatalf("%v: does not measure %s", x, s.Name)
		}
	}
}

// rank is the place of an event in the specification, 2.2 and 2.5.
func (x *trial) rank(t *testing.T, b *stub.Boot, m measure.Measurement) int {
	t.Helper()
	text := fromUTF16z(m.Data)
	archives := []string{"Credentials initrd", "Global credentials initrd", "System extension initrd", "Global system extension initrd",
		"Configuration extension initrd", "Global configuration extension initrd"}
	entry := []string{"Entry credentials initrd", "Entry system extension initrd", "Entry configuration extension initrd"}
	switch {
	case m.PCR == 11:
		return 2
	case slices.Contains(entry, text):
		return slices.Index(entry, text) - len(entry)
	case m.Type == measure.EventTag:
		switch string(m.Data[:4]) {
		case "\xdb\xd6\xae\x13":
			return 1
		case "\x51\xf7\x46\x6c":
			if x.version < 257 {
				return 20
			}
			return 7
		case "\x1a\x8e\xc0\xda":
			return 21
		case "\x0f\xfe\xdf\x49":
			return 22
		}
	case slices.Contains(archives, text):
		return 8 + slices.Index(archives, text)
	case strings.HasPrefix(text, "passed "), strings.HasPrefix(text, "@1"):
		first := slices.IndexFunc(b.Measurements, func(m measure.Measurement) bool { return !slices.Contains(entry, fromUTF16z(m.Data)) })
		if m.Content == b.Measurements[first].Content && x.opts.Via == stub.ViaSystemdBoot {
			return 0
		}
		return 3
	case strings.HasPrefix(text, "addon "):
		return 4
	case strings.HasPrefix(text, "smbios "):
		return 6
	}
	t.Fatalf("%v: what is event %q in PCR %d?", x, text, m.PCR)
	return 0
}

func (x *trial) checkOrder(t *testing.T, b *stub.Boot) {
	t.Helper()
	last := -4
	tags := map[int][]string{} // the addons that are measured, by rank
	for _, m := range b.Measurements {
		rank := x.rank(t, b, m)
		repeats := rank == 2 || rank == 7 || rank >= 20 || rank == 4 && x.version == 254
		if rank < last || rank == last && !repeats {
			t.Fatalf("%v: %s (%d) is behind %d", x, m.Description, rank, last)
		}
		last = rank
		if sysext := rank == -2 || rank == 10 || rank == 11; sysext != (m.PCR == 13) {
			t.Fatalf("%v: %s is in PCR %d", x, m.Description, m.PCR)
		}
		if rank == 7 || rank >= 20 {
			tags[rank] = append(tags[rank], fromUTF16z(m.Data[8:]))
		}
	}
	// Those for all images are first, each by name; microcode is backwards.
	var all []string
	for _, list := range [][]stub.File{x.opts.Sidecars.Addons, x.opts.Sidecars.Image} {
		var names []string
		for _, f := range list {
			names = append(names, f.Name)
		}
		all = append(all, slices.Sorted(slices.Values(names))...)
	}
	for rank, names := range tags {
		rest := all
		if rank == 21 {
			rest = reversed(all)
		}
		for _, name := range names {
			i := slices.Index(rest, name)
			if i < 0 {
				t.Fatalf("%v: addons are measured in the order %q of %q", x, names, all)
			}
			rest = rest[i+1:]
		}
	}
}

// checkInitrd: where there is more than one piece, each begins at a multiple of
// 4, and what is measured of it is in it.
func (x *trial) checkInitrd(t *testing.T, b *stub.Boot) {
	t.Helper()
	initrd := read(t, b.Initrd...)
	if int64(len(initrd)) != b.InitrdSize() || len(b.Initrd) > 1 && len(initrd)%4 != 0 {
		t.Fatalf("%v: initrd of %d bytes", x, len(initrd))
	}
	for off := 0; ; {
		i := strings.Index(initrd[off:], "070701")
		if i < 0 {
			break
		}
		if off += i; off%4 != 0 {
			t.Fatalf("%v: header at %d of the initrd", x, off)
		}
		off++
	}
	off := int64(0)
	for _, c := range b.Initrd {
		if s, ok := c.(*uki.Section); ok && off%4 != 0 {
			t.Fatalf("%v: section %s at %d of the initrd", x, s.Name, off)
		}
		off += c.Size()
	}
	for _, m := range b.Measurements {
		if rank := x.rank(t, b, m); rank >= 0 && rank < 8 || rank == 20 {
			continue
		}
		if i := strings.Index(initrd, read(t, m.Content)); i < 0 || i%4 != 0 && len(b.Initrd) > 1 {
			t.Fatalf("%v: %s is at %d of the initrd", x, m.Description, i)
		}
	}
}

// checkSame: the same again; and neither the order of the files nor files that
// do not count make a difference.
func (x *trial) checkSame(t *testing.T, b *stub.Boot) {
	t.Helper()
	want := summary(t, b)
	if got := summary(t, x.load(t)); got != want {
		t.Fatalf("%v: not the same twice:\n%s\n%s", x, want, got)
	}
	r := rand.New(rand.NewPCG(x.seed, 1))
	y := *x
	for _, list := range lists(&y.opts.Sidecars) {
		*list = slices.Clone(*list)
		*list = append(*list, files(".a.cred", "hidden", ".b.raw", "hidden", ".c.addon.efi", "no PE file", "ä.cred", "not ASCII", "ä.addon.efi", "not ASCII", "README", "foreign",
			"a.cred.bak", "foreign", strings.Repeat("x", 251)+".cred", "too long", strings.Repeat("x", 256)+".addon.efi", "too long")...)
		r.Shuffle(len(*list), func(i, j int) { (*list)[i], (*list)[j] = (*list)[j], (*list)[i] })
	}
	if got := summary(t, y.load(t)); got != want {
		t.Fatalf("%v: files that do not count made a difference:\n%s\n%s", x, want, got)
	}
}

func lists(s *stub.Sidecars) []*[]stub.File {
	return []*[]stub.File{&s.Image, &s.Addons, &s.Credentials, &s.Extensions}
}

// checkFlips: a flipped byte in a sidecar changes PCR 12 or PCR 13, the one that
// the kind of file is measured into, and nothing else.
func (x *trial) checkFlips(t *testing.T, b *stub.Boot, flips map[measure.PCR]int) {
	t.Helper()
	before := digests(t, b)
	r := rand.New(rand.NewPCG(x.seed, 2))
	for n, list := range lists(&x.opts.Sidecars) {
		for i, f := range *list {
			contents, err := measure.ReadAll(f.Content, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			at := 0
			want := measure.PCR(0)
			switch dir := []string{"image", "addons", "credentials", "extensions"}[n]; {
			case len(contents) == 0:
				continue
			case strings.HasSuffix(f.Name, ".addon.efi"):
				if dir == "image" || dir == "addons" {
					if at = x.usedByte(t, b, f); at > 0 {
						want = 12
					}
				}
			default:
				at = r.IntN(len(contents))
				switch kind := strings.ToLower(f.Name[strings.IndexByte(f.Name, '.'):]); {
				case kind == ".cred" && (dir == "image" || dir == "credentials"):
					want = 12
				case kind == ".confext.raw" && (dir == "image" && x.version >= 256 || dir == "extensions" && x.version >= 258):
					want = 12
				case strings.HasSuffix(kind, ".raw") && (dir == "image" || dir == "extensions" && x.version >= 258):
					want = 13
				}
			}
			if at == 0 && strings.HasSuffix(f.Name, ".addon.efi") {
				continue // nothing of it is used
			}
			flipped := bytes.Clone(contents)
			flipped[at] ^= 1
			y := *x
			changed := slices.Clone(*list)
			changed[i].Content = measure.Bytes(flipped)
			*lists(&y.opts.Sidecars)[n] = changed
			after := y.load(t)
			if after == nil {
				t.Fatalf("%v: %s with a flipped byte does not load", x, f.Name)
			}
			for pcr, d := range digests(t, after) {
				if different := !bytes.Equal(d, before[pcr]); different != (pcr == want) {
					t.Fatalf("%v: byte %d of %s flipped: PCR %d different: %v", x, at, f.Name, pcr, different)
				}
			}
			if want == 0 && summary(t, after) != summary(t, b) {
				t.Fatalf("%v: byte %d of %s flipped: PCRs are the same, the rest is not", x, at, f.Name)
			}
			if read(t, after.Kernel) != read(t, b.Kernel) || measured(t, after) != measured(t, b) {
				t.Fatalf("%v: byte %d of %s flipped: another kernel", x, at, f.Name)
			}
			flips[want]++
		}
	}
}

// usedByte returns the offset in an addon of a byte that the version uses, 0 if
// none is known: a letter of its .cmdline, .dtb, .initrd or .ucode, each if it is there once.
func (x *trial) usedByte(t *testing.T, b *stub.Boot, f stub.File) int {
	t.Helper()
	if slices.ContainsFunc(b.Ignored, func(s string) bool { return strings.HasPrefix(s, "addon "+f.Name+":") }) {
		return 0
	}
	addon, err := uki.Open(f.Content, f.Content.Size())
	if err != nil {
		t.Fatal(err)
	}
	for name, since := range map[string]int{".cmdline": 254, ".dtb": 255, ".initrd": 257, ".ucode": 257} {
		var found []*uki.Section
		for _, s := range addon.Sections {
			if s.Name == name {
				found = append(found, s)
			}
		}
		if len(found) == 1 && x.version >= since {
			off, size := found[0].FileRange()
			return int(off + size - 1)
		}
	}
	return 0
}

// FuzzAddon has any file as an addon beside an image: it is refused, or what is
// not of addons is as without it.
func FuzzAddon(f *testing.F) {
	seeds := [][]byte{
		build(f, "262"),
		build(f, "262", sec(".cmdline", "a\tb\n")),
		build(f, "262", sec(".cmdline", "x"), sec(".initrd", "i"), sec(".ucode", "u"), sec(".dtb", "d"), sec(".uname", "6.1")),
		build(f, "262", sec(".cmdline", "x"), sec(".uname", "7")),
		build(f, "262", sec(".cmdline", "x"), linux),
		build(f, "262", sec(".dtbauto", "x"), sec(".hwids", "x")),
		build(f, "262", sec(".profile", "ID=a"), sec(".cmdline", "x")),
		build(f, "262", ukitest.Section{Name: ".cmdline", Data: []byte("x"), VirtualSize: 5000}),
	}
	for i, s := range seeds {
		f.Add(s, byte(i), byte(0))
		f.Add(s[:len(s)-300], byte(i+3), byte(1))
		f.Add(s, byte(i+6), byte(2))
	}
	image := []ukitest.Section{linux, sec(".cmdline", "base"), sec(".initrd", "initrd"), sec(".uname", "6.1.0"), sec(".ucode", "ucode"), sec(".pcrpkey", "key")}
	others := files("a.cred", "1", "b.raw", "2", "c.confext.raw", "3")
	f.Fuzz(func(t *testing.T, addon []byte, version, flags byte) {
		v := fmt.Sprint(252 + int(version)%11)
		opts := stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("passed"), SMBIOSCmdline: "smbios", Sidecars: stub.Sidecars{Image: others}}
		without := load(t, v, opts, image...)
		file := stub.File{Name: "x.addon.efi", Content: measure.Bytes(addon)}
		if flags&1 == 0 {
			opts.Sidecars.Addons = []stub.File{file}
		} else {
			opts.Sidecars.Image = append(slices.Clone(others), file)
		}
		if flags&2 != 0 {
			opts.AcceptAddon = func(string, *uki.File) (bool, error) { return false, nil }
		}
		b, err := loadBytes(build(t, v, image...), opts)
		if err != nil {
			if b != nil || !strings.HasPrefix(err.Error(), "addon x.addon.efi: ") || v < "254" {
				t.Fatalf("%s: %v, %v", v, b, err)
			}
			return
		}
		if measured(t, b) != measured(t, without) {
			t.Fatalf("%s: PCR 11 has %s, without the addon %s", v, measured(t, b), measured(t, without))
		}
		// The other events are all there, in order; the addon's are in PCR 12.
		rest := without.Measurements
		added := 0
		for _, m := range b.Measurements {
			if len(rest) > 0 && m.PCR == rest[0].PCR && bytes.Equal(m.Data, rest[0].Data) && m.Content.Size() == rest[0].Content.Size() {
				rest = rest[1:]
				continue
			}
			if added++; m.PCR != 12 || m.Content.Size() == 0 || m.Content.Size() > 128<<20 {
				t.Fatalf("%s: %s: PCR %d, %d bytes", v, m.Description, m.PCR, m.Content.Size())
			}
		}
		if len(rest) > 0 || added > 4 {
			t.Fatalf("%s: %d events are missing, %d are new", v, len(rest), added)
		}
		if added > 0 && (v < "254" || flags&2 != 0 || len(b.Ignored) > 0) || added == 0 && b.Cmdline != without.Cmdline {
			t.Fatalf("%s: %d events, ignored %q, command line %q", v, added, b.Ignored, b.Cmdline)
		}
		if b.InitrdSize() < without.InitrdSize() || added == 0 && b.InitrdSize() != without.InitrdSize() || b.InitrdSize()%4 != 0 {
			t.Fatalf("%s: initrd of %d bytes, without the addon %d", v, b.InitrdSize(), without.InitrdSize())
		}
		if !strings.HasPrefix(b.Cmdline, "passed") || !strings.HasSuffix(b.Cmdline, map[bool]string{true: " smbios", false: "passed"}[v >= "254"]) {
			t.Fatalf("%s: command line %.80q", v, b.Cmdline)
		}
	})
}
