package measure_test

// These tests compare the hashing of contents with hashing them in one piece,
// and cover what Predict refuses. What an image measures, and that the numbers
// are systemd's, is tested in measure/stub.

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mkexec/mkexec/measure"
)

// chunk is chunkSize of hash.go.
const chunk = 256 << 10

// pattern returns bytes that are nowhere the same at a distance of a chunk.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + i>>16*3)
	}
	return b
}

func sums(b []byte) map[measure.Bank]measure.Digest {
	s1, s256, s384, s512 := sha1.Sum(b), sha256.Sum256(b), sha512.Sum384(b), sha512.Sum512(b)
	return map[measure.Bank]measure.Digest{measure.SHA1: s1[:], measure.SHA256: s256[:], measure.SHA384: s384[:], measure.SHA512: s512[:]}
}

func TestSum(t *testing.T) {
	data := pattern(20*chunk + 5)
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 4 * chunk, 4*chunk + 1, 5*chunk - 1, 9 * chunk, len(data)} {
		got, err := measure.Sum(measure.Bytes(data[:n]), measure.Banks()...)
		if err != nil || len(got) != 4 {
			t.Fatalf("%d bytes: %v, %v", n, got, err)
		}
		for b, want := range sums(data[:n]) {
			if !bytes.Equal(got[b], want) {
				t.Errorf("%d bytes: %v %v, want %v", n, b, got[b], want)
			}
		}
	}
	got, err := measure.Sum(measure.Bytes(data), measure.SHA384)
	if err != nil || len(got) != 1 || got[measure.SHA384].String() != sums(data)[measure.SHA384].String() {
		t.Errorf("one bank: %v, %v", got, err)
	}
}

// counted counts how often each byte is read.
type counted struct {
	measure.Content
	n atomic.Int64
}

func (c *counted) ReadAt(b []byte, off int64) (int, error) {
	c.n.Add(int64(len(b)))
	return c.Content.ReadAt(b, off)
}

func zero() measure.PCRs { return measure.Zero(measure.Banks(), measure.StubPCRs()...) }

func section(name string, c measure.Content) measure.Measurement {
	return measure.Measurement{PCR: 11, Type: measure.EventIPL, Description: "section " + name + ": data", Content: c}
}

// TestPredictInitrdDigest has an initrd that goes on where a measured section ends.
func TestPredictInitrdDigest(t *testing.T) {
	for _, sizes := range [][]int{{100, 50}, {chunk + 3, 1}, {3 * chunk, 2*chunk + 7}, {10, 3 * chunk}, {0, 5}, {7, 0}, {1000}} {
		var initrd []measure.Content
		var whole []byte
		var want int64
		for i, n := range sizes {
			part := pattern(n + i)[i:]
			whole = append(whole, part...)
			initrd = append(initrd, &counted{Content: measure.Bytes(part)})
			want += int64(n)
		}
		linux := measure.Bytes(pattern(2*chunk + 1))
		first := initrd[0].(*counted)
		var progress atomic.Int64
		image := &measure.Image{Initrd: initrd, Measurements: []measure.Measurement{
			section(".linux", linux), section(".initrd", first), section(".again", first)}}
		if image.InitrdSize() != want {
			t.Errorf("%v: %d bytes", sizes, image.InitrdSize())
		}
		p, err := measure.Predict(image, measure.Options{Base: zero(), InitrdDigest: true, Progress: func(n int64) { progress.Add(n) }})
		if err != nil {
			t.Fatal(err)
		}
		if h := sha256.Sum256(whole); !bytes.Equal(p.InitrdDigest, h[:]) {
			t.Errorf("%v: initrd %v, want %x", sizes, p.InitrdDigest, h)
		}
		for b, d := range sums(pattern(sizes[0])) {
			if !bytes.Equal(p.Events[1].Digests[b], d) || !bytes.Equal(p.Events[2].Digests[b], d) {
				t.Errorf("%v: %v of the section changed by what follows", sizes, b)
			}
		}
		if n := first.n.Load(); n != int64(sizes[0]) {
			t.Errorf("%v: read %d bytes of the first", sizes, n)
		}
		if total := want + linux.Size(); progress.Load() != total {
			t.Errorf("%v: progress %d of %d", sizes, progress.Load(), total)
		}
	}
}

func TestPredictNoInitrdDigest(t *testing.T) {
	initrd := []measure.Content{measure.Bytes([]byte("x"))}
	for name, test := range map[string]struct {
		image *measure.Image
		asked bool
	}{
		"not asked": {&measure.Image{Initrd: initrd}, false},
		"no initrd": {&measure.Image{}, true},
	} {
		p, err := measure.Predict(test.image, measure.Options{Base: zero(), InitrdDigest: test.asked})
		if err != nil || p.InitrdDigest != nil || len(p.Events) != 0 {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	// An initrd without contents is an initrd.
	p, err := measure.Predict(&measure.Image{Initrd: []measure.Content{measure.Bytes(nil)}}, measure.Options{Base: zero(), InitrdDigest: true})
	if err != nil || p.InitrdDigest.String() != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("empty initrd: %v, %v", p, err)
	}
}

func TestPredict(t *testing.T) {
	base := zero()
	if err := base.Extend(event(11, "earlier", measure.Banks()...)); err != nil {
		t.Fatal(err)
	}
	before := base.Clone()
	image := &measure.Image{Measurements: []measure.Measurement{
		{PCR: 12, Type: measure.EventTag, Data: []byte("data"), Description: "a", Content: measure.Bytes([]byte("1"))},
		{PCR: 11, Type: measure.EventIPL, Description: "b", Content: measure.Bytes([]byte("2"))},
		{PCR: 12, Type: measure.EventIPL, Description: "c", Content: measure.Bytes(nil)},
	}}
	p, err := measure.Predict(image, measure.Options{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Events) != 3 || p.Events[0].Type != measure.EventTag || string(p.Events[0].Data) != "data" || p.Events[1].Description != "b" {
		t.Errorf("events %+v", p.Events)
	}
	want := before.Clone()
	for _, ev := range []measure.Event{event(12, "1", measure.Banks()...), event(11, "2", measure.Banks()...), event(12, "", measure.Banks()...)} {
		if err := want.Extend(ev); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // At changes nothing
		got, err := p.At("")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range measure.Compare(want, got) {
			t.Error(d)
		}
		if _, err := p.At("enter-initrd:leave-initrd"); err != nil {
			t.Fatal(err)
		}
	}
	if d := append(measure.Compare(before, base), measure.Compare(before, p.Base)...); len(d) > 0 {
		t.Errorf("the base changed: %v", d)
	}
	if err := base.Extend(event(11, "later", measure.Banks()...)); err != nil {
		t.Fatal(err)
	}
	if d := measure.Compare(before, p.Base); len(d) > 0 {
		t.Errorf("the prediction's base is the caller's: %v", d)
	}
}

func TestPredictRefusesBase(t *testing.T) {
	no13 := zero()
	delete(no13[measure.SHA384], 13)
	short := zero()
	short[measure.SHA1][12] = short[measure.SHA1][12][:19]
	for name, test := range map[string]struct {
		base measure.PCRs
		want string
	}{
		"nil":      {nil, "predict: no bank in the base"},
		"no bank":  {measure.PCRs{}, "predict: no bank in the base"},
		"no value": {measure.PCRs{measure.SHA256: nil}, "predict: the base does not know PCR 11 (sha256)"},
		"only 11":  {measure.Zero([]measure.Bank{measure.SHA256}, 11), "predict: the base does not know PCR 12 (sha256)"},
		"no 13":    {no13, "predict: the base does not know PCR 13 (sha384)"},
		"short":    {short, "predict: the base does not know PCR 12 (sha1)"},
		"SM3":      {measure.Zero([]measure.Bank{0x12}, measure.StubPCRs()...), "predict: bank alg_0x0012: unknown"},
	} {
		p, err := measure.Predict(&measure.Image{}, measure.Options{Base: test.base})
		wantError(t, err, test.want)
		if p != nil {
			t.Errorf("%s: a result and an error", name)
		}
	}

	other := &measure.Image{Measurements: []measure.Measurement{{PCR: 9, Description: "x", Content: measure.Bytes(nil)}}}
	p, err := measure.Predict(other, measure.Options{Base: measure.Zero([]measure.Bank{measure.SHA1}, measure.StubPCRs()...)})
	wantError(t, err, "predict: extend PCR 9: its sha1 value is not known")
	if p != nil {
		t.Error("a result and an error")
	}
}

// broken fails at and behind an offset: with err, or by ending early.
type broken struct {
	size, at int64
	err      error
	mu       sync.Mutex
	max      int64 // furthest byte asked for
}

func (b *broken) Size() int64 { return b.size }

func (b *broken) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.max = max(b.max, off+int64(len(p)))
	if n := max(0, b.at-off); n < int64(len(p)) {
		return int(n), b.err
	}
	return len(p), nil
}

func TestPredictReadErrors(t *testing.T) {
	cause := errors.New("disk on fire")
	before := runtime.NumGoroutine()
	for _, test := range []struct {
		c    *broken
		want string
	}{
		{&broken{size: 100, at: 50, err: cause}, "read at 0: disk on fire"},
		{&broken{size: 100, at: 99, err: io.EOF}, "read at 0: unexpected EOF"},
		{&broken{size: 100, at: 99}, "read at 0: unexpected EOF"}, // breaks the rules of io.ReaderAt
		{&broken{size: 20 * chunk, at: 0, err: cause}, "read at 0: disk on fire"},
		{&broken{size: 20 * chunk, at: chunk, err: cause}, "read at 262144: disk on fire"},
		{&broken{size: 20 * chunk, at: 9*chunk + 1, err: cause}, "read at 2359296: disk on fire"},
		{&broken{size: 20*chunk + 1, at: 20 * chunk, err: io.EOF}, "read at 5242880: unexpected EOF"},
	} {
		good := measure.Bytes(pattern(3 * chunk))
		for name, image := range map[string]*measure.Image{
			"section .initrd: data": {Measurements: []measure.Measurement{section(".linux", good), section(".initrd", test.c)}},
			"initrd":                {Measurements: []measure.Measurement{section(".initrd", good)}, Initrd: []measure.Content{good, test.c}},
		} {
			p, err := measure.Predict(image, measure.Options{Base: zero(), InitrdDigest: true})
			wantError(t, err, "predict: "+name+": "+test.want)
			if p != nil {
				t.Error("a result and an error")
			}
			if test.c.err == cause && !errors.Is(err, cause) {
				t.Errorf("the cause of %v is lost", err)
			}
		}
		if test.c.size > chunk && test.c.max > test.c.at+chunk {
			t.Errorf("went on to %d after the error at %d", test.c.max, test.c.at)
		}
		d, err := measure.Sum(test.c, measure.Banks()...)
		wantError(t, err, "sum: "+test.want)
		if d != nil {
			t.Error("a sum and an error")
		}
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// TestPredictMany has more contents than processors; the results are in order.
func TestPredictMany(t *testing.T) {
	var image measure.Image
	for i := range 200 {
		image.Measurements = append(image.Measurements, section(fmt.Sprint(i), measure.Bytes([]byte(fmt.Sprint("content ", i)))))
	}
	p, err := measure.Predict(&image, measure.Options{Base: zero()})
	if err != nil {
		t.Fatal(err)
	}
	for i, ev := range p.Events {
		if want := sums([]byte(fmt.Sprint("content ", i))); ev.Digests[measure.SHA512].String() != want[measure.SHA512].String() {
			t.Errorf("event %d: %v", i, ev.Digests[measure.SHA512])
		}
	}
}

func TestReadAll(t *testing.T) {
	if b, err := measure.ReadAll(measure.Bytes([]byte("abc")), 3); err != nil || string(b) != "abc" {
		t.Errorf("%q, %v", b, err)
	}
	_, err := measure.ReadAll(measure.Bytes([]byte("abcd")), 3)
	wantError(t, err, "4 bytes: more than 3")
	_, err = measure.ReadAll(&broken{size: 3, at: 2, err: io.EOF}, 3)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ends early: %v", err)
	}
}

func TestFirstDifference(t *testing.T) {
	two := []measure.Bank{measure.SHA1, measure.SHA256}
	a, b, c := event(11, "a", two...), event(11, "b", two...), event(12, "c", two...)
	otherPCR, otherType, oneBank, oneByte, described := event(12, "b", two...), b, event(11, "b", measure.SHA256), event(11, "b", two...), b
	otherType.Type = measure.EventTag
	oneByte.Digests[measure.SHA256][31] ^= 1
	described.Description, described.Data = "another", []byte("data")
	all := []measure.Event{a, b, c}
	for name, test := range map[string]struct {
		a, b []measure.Event
		want int
	}{
		"same":        {all, all, -1},
		"both empty":  {nil, nil, -1},
		"more":        {all, all[:2], 2},
		"from none":   {nil, all, 0},
		"first":       {all, []measure.Event{b, b, c}, 0},
		"order":       {all, []measure.Event{a, c, b}, 1},
		"PCR":         {all, []measure.Event{a, otherPCR, c}, 1},
		"type":        {all, []measure.Event{a, otherType, c}, 1},
		"one byte":    {all, []measure.Event{a, oneByte, c}, 1},
		"other bank":  {all, []measure.Event{a, oneBank, c}, -1},
		"description": {all, []measure.Event{a, described, c}, -1},
	} {
		if got := measure.FirstDifference(test.a, test.b); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
		if got := measure.FirstDifference(test.b, test.a); got != test.want {
			t.Errorf("%s, the other way: %d, want %d", name, got, test.want)
		}
	}
}

// TestSeparated: what systemd in the initrd does to the PCRs of firmware. Its
// word is that of a real boot (spec/sd-stub.md 4.1).
func TestSeparated(t *testing.T) {
	t.Parallel()
	const word = "ff5b9d73dad709633ae76adf444012b57e913a12ed7403c3931145862f35f841" // SHA-256 of os-separator
	base := measure.Zero([]measure.Bank{measure.SHA256}, 4, 7, 9, 10, 11, 12, 13)
	d, err := measure.ParseDigest(measure.SHA256, word)
	if err != nil {
		t.Fatal(err)
	}
	extended := measure.SHA256.Sum(append(make([]byte, 32), d...)).String()
	zero := measure.Digest(make([]byte, 32)).String()
	for separator, want := range map[measure.Separator]map[measure.PCR]string{ // "" is not known
		measure.SeparatorNo:      {4: zero, 7: zero, 9: zero, 10: zero, 12: zero, 13: zero},
		measure.SeparatorYes:     {4: extended, 7: extended, 9: "", 10: zero, 12: extended, 13: extended},
		measure.SeparatorUnknown: {4: "", 7: "", 9: "", 10: zero, 12: "", 13: ""},
	} {
		p, err := measure.Predict(&measure.Image{}, measure.Options{Base: base})
		if err != nil {
			t.Fatal(err)
		}
		p.OSSeparator = separator
		for _, phase := range []measure.Phase{"enter-initrd", "enter-initrd:leave-initrd:sysinit"} {
			pcrs, err := p.At(phase)
			if err != nil {
				t.Fatal(err)
			}
			for n, value := range want {
				if got := pcrs[measure.SHA256][n].String(); got != value {
					t.Errorf("separator %d, %s: PCR %d is %q, want %q", separator, phase, n, got, value)
				}
			}
		}
		before, err := p.At("")
		if err != nil || before[measure.SHA256][9].String() != zero {
			t.Errorf("before the first phase PCR 9 is %v, %v", before[measure.SHA256][9], err)
		}
	}
}
