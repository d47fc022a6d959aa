package logfile_test

// The log beside the real systemd 262 in SYSTEMD_ROOT and a TPM in software:
// systemd-pcrextend and mkexec write it in turn and at a time, and systemd-pcrlock
// and mkexec read it and compare it with the TPM. It does not prove anything about
// the order of things in a boot, nor about older versions as readers. Only root
// can chroot.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/measure/eventlog/logfile"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

// A reference is systemd with a TPM and a log.
type reference struct {
	t    *testing.T
	root string
	dir  string // of this test, below root
	env  []string
	dev  *tpm.Device
	log  *logfile.Log
}

// newReference sets TMPDIR, for the TPM's socket: such tests are not parallel.
func newReference(t *testing.T) *reference {
	root := cmp.Or(os.Getenv("SYSTEMD_ROOT"), "/var/tmp/ref/sidroot")
	if _, err := os.Stat(filepath.Join(root, "usr/lib/systemd/systemd-pcrlock")); err != nil || os.Getuid() != 0 {
		t.Skipf("no systemd 262 in SYSTEMD_ROOT, or not root: %v", err)
	}
	dir, err := os.MkdirTemp(filepath.Join(root, "tmp"), "mkexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	swtpm := tpmtest.Start(t)
	socket := strings.TrimPrefix(swtpm.Device(), "swtpm:path=")
	if err := os.Symlink("ctrl", socket+".ctrl"); err != nil { // where tpm2-tss looks for the control socket
		t.Fatal(err)
	}
	dev, err := tpm.Open(swtpm.Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	r := &reference{t: t, root: root, dir: dir, dev: dev}
	r.log = &logfile.Log{Path: filepath.Join(dir, "log"), BootID: strings.TrimSpace(string(id)), Image: measure.SHA256.Sum([]byte("image"))}
	r.env = []string{
		"SYSTEMD_TPM2_DEVICE=swtpm:path=" + r.inside(socket), "SYSTEMD_MEASURE_LOG_USERSPACE=" + r.inside(r.log.Path),
		"SYSTEMD_MEASURE_LOG_FIRMWARE=/dev/null", "SYSTEMD_FORCE_MEASURE=1",
	}
	return r
}

// inside returns what programs in root call a file.
func (r *reference) inside(path string) string { return strings.TrimPrefix(path, r.root) }

// run runs a program of systemd's and returns what it prints.
func (r *reference) run(name string, args ...string) []byte {
	r.t.Helper()
	c := exec.Command("/usr/lib/systemd/"+name, args...)
	c.Dir, c.Env, c.SysProcAttr = "/", r.env, &syscall.SysProcAttr{Chroot: r.root}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		r.t.Errorf("%s %q: %v: %s", name, args, err, stderr.Bytes())
	}
	return out
}

func (r *reference) pcrextend(word string) {
	r.t.Helper()
	r.run("systemd-pcrextend", "--tpm2-device="+strings.TrimPrefix(r.env[0], "SYSTEMD_TPM2_DEVICE="), word)
}

// fourBanks returns an event with digests for all of the TPM's banks.
func fourBanks(n measure.PCR, text string) measure.Event {
	ev := measure.Event{PCR: n, Type: measure.EventIPL, Description: text, Size: int64(len(text)), Digests: map[measure.Bank]measure.Digest{}}
	for _, b := range measure.Banks() {
		ev.Digests[b] = b.Sum([]byte(text))
	}
	return ev
}

func (r *reference) record(ev measure.Event) {
	r.t.Helper()
	if err := r.log.Record(ev, func() error { return r.dev.Extend(ev) }); err != nil || r.log.Err() != nil {
		r.t.Error(err, r.log.Err())
	}
}

// A pcrlockLog is the output of systemd-pcrlock log --json.
type pcrlockLog struct {
	Log  []map[string]any `json:"log"`
	PCRs []struct {
		PCR     measure.PCR `json:"pcr"`
		Matches *bool       `json:"hashMatchesEventLog"`
		SHA256  string      `json:"calculatedSHA256"`
		SHA512  string      `json:"calculatedSHA512"`
	} `json:"pcrs"`
}

// compare has systemd and mkexec compare the log with the TPM, and wants the same
// answer: all PCRs, or all but these.
func (r *reference) compare(data []byte, records int, but ...measure.PCR) {
	r.t.Helper()
	u, err := eventlog.ParseUserspace(data)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(u.Records) != records {
		r.t.Errorf("%d records, want %d", len(u.Records), records)
	}
	var all []measure.PCR
	for n := range measure.PCR(24) {
		all = append(all, n)
	}
	live, err := r.dev.Read(all...)
	if err != nil {
		r.t.Fatal(err)
	}
	line := eventlog.Timeline{Records: u.Records}
	noes := map[measure.PCR]bool{}
	calculated := measure.PCRs{}
	for _, v := range line.Judge(live) {
		calculated.Set(v.Bank, v.PCR, v.Log)
		if v.State.No() {
			noes[v.PCR] = true
		}
	}
	want := map[measure.PCR]bool{}
	for _, n := range but {
		want[n] = true
	}
	if !reflect.DeepEqual(noes, want) {
		r.t.Errorf("mkexec says no to PCRs %v, want %v", noes, want)
	}

	if err := os.WriteFile(r.log.Path, data, 0o600); err != nil {
		r.t.Fatal(err)
	}
	var theirs pcrlockLog
	if err := json.Unmarshal(r.run("systemd-pcrlock", "log", "--json=short"), &theirs); err != nil {
		r.t.Fatal(err)
	}
	if len(theirs.Log) != records {
		r.t.Errorf("systemd-pcrlock has %d records, want %d", len(theirs.Log), records)
	}
	for _, p := range theirs.PCRs {
		if p.Matches != nil && *p.Matches == want[p.PCR] {
			r.t.Errorf("systemd-pcrlock says %v to PCR %d", *p.Matches, p.PCR)
		}
		if c := calculated; c[measure.SHA256][p.PCR].String() != p.SHA256 || c[measure.SHA512][p.PCR].String() != p.SHA512 {
			r.t.Errorf("PCR %d: systemd-pcrlock replays %s", p.PCR, p.SHA256)
		}
	}
	r.compareCEL(&line)
}

// compareCEL wants CEL-JSON as of systemd-pcrlock, but that ours has more of our own records.
func (r *reference) compareCEL(line *eventlog.Timeline) {
	r.t.Helper()
	b, err := line.CEL()
	if err != nil {
		r.t.Fatal(err)
	}
	var ours, theirs []map[string]any
	if err := json.Unmarshal(b, &ours); err != nil {
		r.t.Fatal(err)
	}
	if err := json.Unmarshal(r.run("systemd-pcrlock", "cel", "--json=short"), &theirs); err != nil {
		r.t.Fatal(err)
	}
	for _, o := range ours {
		if o["content_type"] == eventlog.ContentKexec {
			if o["content"].(map[string]any)["description"] == "" {
				r.t.Errorf("%v", o)
			}
			delete(o, "content")
			delete(o, "content_type")
		}
	}
	for _, o := range theirs {
		if o["content_type"] == eventlog.ContentKexec {
			delete(o, "content_type")
		}
	}
	if !reflect.DeepEqual(ours, theirs) {
		r.t.Errorf("CEL differs:\n%v\n%v", ours, theirs)
	}
}

// keep writes a log, and what systemd-pcrlock makes of it, to a directory.
func (r *reference) keep(dir string, data []byte) {
	r.t.Helper()
	for name, b := range map[string][]byte{
		"mkexec.log": data, "mkexec.cel.json": r.run("systemd-pcrlock", "cel", "--json=short"), "mkexec.pcrlock.json": r.run("systemd-pcrlock", "log", "--json=short"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestSystemdReads: systemd-pcrlock takes a log with our records, finds the PCRs as
// we do, and notices the same changes.
func TestSystemdReads(t *testing.T) {
	r := newReference(t)
	r.pcrextend("enter-initrd")
	r.pcrextend("leave-initrd")
	events := []measure.Event{fourBanks(11, "section .linux: name"), fourBanks(11, "section .linux: data"), fourBanks(12, "command line \"ä\""), fourBanks(13, "System extension initrd")}

	// as planned
	planned, err := r.log.After("shutdown:final", events)
	if err != nil {
		t.Fatal(err)
	}
	// and done: the words by systemd, the events by us
	r.pcrextend("shutdown")
	r.pcrextend("final")
	for _, ev := range events {
		r.record(ev)
	}
	done, dirty, err := logfile.Read(r.log.Path)
	if err != nil || dirty {
		t.Fatal(dirty, err)
	}
	r.compare(done, 8)
	r.compare(planned, 8)

	// the next system writes on in what it was given
	r.pcrextend("enter-initrd")
	again, _, err := logfile.Read(r.log.Path)
	if err != nil || !bytes.HasPrefix(again, planned) {
		t.Fatal(err)
	}
	r.compare(again, 9)
	if dir := os.Getenv("MKEXEC_RECORD"); dir != "" { // ../testdata/systemd, see its README
		r.keep(dir, again)
	}

	// siblings: a digest with another bit, a record that is missing, one too many
	linux := fourBanks(11, "section .linux: data").Digests[measure.SHA256].String()
	other := fourBanks(11, "section .linux: DATA").Digests[measure.SHA256].String()
	r.compare(bytes.Replace(again, []byte(linux), []byte(other), 1), 9, 11)
	end := bytes.LastIndexByte(again, 0x1E)
	r.compare(again[:end], 8, 11)
	extra, err := eventlog.Stamp{BootID: strings.ReplaceAll(r.log.BootID, "-", "")}.Kexec(events[3])
	if err != nil {
		t.Fatal(err)
	}
	r.compare(append(bytes.Clone(again), extra...), 10, 13)
}

// TestBesideSystemd: systemd-pcrextend and mkexec at a time; what they log is what
// the TPM has, in that order.
func TestBesideSystemd(t *testing.T) {
	r := newReference(t)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for range 4 {
				r.pcrextend(fmt.Sprint("systemd", i))
			}
		})
	}
	for i := range 40 {
		r.record(fourBanks(11, fmt.Sprint("mkexec ", i)))
	}
	wg.Wait()
	data, dirty, err := logfile.Read(r.log.Path)
	if err != nil || dirty {
		t.Fatal(dirty, err)
	}
	r.compare(data, 48)
}

// TestSystemdFindsMark: the mark that we leave is one to systemd, which writes on.
func TestSystemdFindsMark(t *testing.T) {
	r := newReference(t)
	ev := fourBanks(11, "x")
	if err := r.log.Record(ev, func() error { return os.ErrInvalid }); err != os.ErrInvalid {
		t.Fatal(err)
	}
	r.pcrextend("ready")
	if got := mode(t, r.log.Path); got != marked {
		t.Errorf("after systemd: %s", got)
	}
	data, dirty, err := logfile.Read(r.log.Path)
	if err != nil || !dirty {
		t.Fatal(dirty, err)
	}
	r.compare(data, 1)
}
