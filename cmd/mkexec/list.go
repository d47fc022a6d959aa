package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"text/tabwriter"

	"github.com/mkexec/mkexec/measure/bls"
	"github.com/mkexec/mkexec/measure/esp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newList(sys *system, out *bytes.Buffer) *cobra.Command {
	var asJSON bool
	var espPath, bootPath string
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "List the boot loader entries, and which one is the default",
		Long: "List the entries of the Boot Loader Specification on the EFI system partition and the extended\n" +
			"boot loader partition, in the order of systemd-boot, with the one that it starts by default.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := refuseEmpty(cmd); err != nil {
				return err
			}
			parts, err := openPartitions(sys, espPath, bootPath)
			if err != nil {
				return err
			}
			defer parts.close()
			menu, err := parts.menu()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(out, parts.list(menu))
			}
			return parts.list(menu).print(out)
		},
	}
	cmd.Flags().SortFlags = false
	addPartitionFlags(cmd.Flags(), &espPath, &bootPath)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// addPartitionFlags adds the flags that say where the partitions are.
func addPartitionFlags(fl *pflag.FlagSet, espDir, xbootldrDir *string) {
	fl.StringVar(espDir, "esp", "", "the EFI system partition, mounted at or copied to `DIR` (default: the mounted one)")
	fl.StringVar(xbootldrDir, "xbootldr", "", "the extended boot loader partition, `DIR` (default: the mounted one)")
}

// partitions are the ones that hold boot loader entries.
type partitions struct {
	espDir, bootDir string // "" if there is none
	esp, boot       fs.FS
	vars            fs.FS // with this machine's EFI variables; nil for partitions of others
	roots           []*os.Root
}

func (p *partitions) close() {
	for _, r := range p.roots {
		r.Close()
	}
}

// openPartitions opens the partitions in the directories given, or else those
// that are mounted. Naming the ESP says that there is no other partition than
// the one that --xbootldr names.
func openPartitions(sys *system, espPath, bootPath string) (_ *partitions, err error) {
	p := &partitions{espDir: espPath, bootDir: bootPath}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	var espMounted, bootMounted string
	if espPath == "" {
		if espMounted, bootMounted, err = esp.Mounted(sys.root); err != nil {
			return nil, err
		}
		if espMounted == "" {
			return nil, withHint(errors.New("no EFI system partition is mounted on /efi, /boot or /boot/efi"), "--esp=DIR")
		}
		p.espDir, p.bootDir, p.vars = espMounted, cmp.Or(bootPath, bootMounted), sys.root
	} else if isMounted(sys, espPath) {
		p.vars = sys.root
	}
	if p.esp, err = p.open(sys, espPath, espMounted); err != nil {
		return nil, err
	}
	if p.bootDir != "" {
		p.boot, err = p.open(sys, bootPath, bootMounted)
	}
	return p, err
}

// open opens a directory that was named, or else one of the system's mount points.
func (p *partitions) open(sys *system, named, mounted string) (fs.FS, error) {
	if named == "" {
		return fs.Sub(sys.root, mounted[1:])
	}
	r, err := os.OpenRoot(named)
	if err != nil {
		return nil, err
	}
	p.roots = append(p.roots, r)
	return r.FS(), nil
}

// isMounted tells whether a directory is where a partition of this machine is mounted.
func isMounted(sys *system, dir string) bool {
	dir, err := realPath(dir)
	if err != nil {
		return false
	}
	mounted, name, ok, err := esp.Holding(sys.root, dir)
	return err == nil && ok && mounted == dir && name == ""
}

func (p *partitions) menu() (*bls.Menu, error) { return bls.Read(p.esp, p.boot, p.vars) }

// dir returns where the partition of an entry is mounted.
func (p *partitions) dir(part esp.Type) string {
	if part == esp.XBOOTLDR {
		return p.bootDir
	}
	return p.espDir
}

// A chosen is an entry and where the partition that it is on is mounted.
type chosen struct {
	entry *bls.Entry
	dir   string

	partitions *partitions
}

func (c *chosen) close() { c.partitions.close() }

// defaultEntry returns the entry that the boot loader starts by itself, which is
// what a verb without an image is about. espPath and bootPath are as in list.
func defaultEntry(sys *system, espPath, bootPath string) (*chosen, error) {
	p, err := openPartitions(sys, espPath, bootPath)
	if err != nil {
		return nil, err
	}
	menu, err := p.menu()
	if err == nil {
		var e *bls.Entry
		if e, err = menu.Default(); err == nil {
			return &chosen{e, p.dir(e.Partition), p}, nil
		}
		err = withHint(err, "mkexec list")
	}
	p.close()
	return nil, err
}

// An entryList is the output of list --json, version 1.
type entryList struct {
	Version int         `json:"version"`
	Default string      `json:"default,omitempty"` // ID
	Reason  string      `json:"reason,omitempty"`  // why there is no default
	Entries []entryJSON `json:"entries"`
}

type entryJSON struct {
	ID                string   `json:"id"`
	Type              bls.Type `json:"type"`
	Partition         esp.Type `json:"source"`
	Path              string   `json:"path"`
	Title             string   `json:"title,omitempty"`
	Version           string   `json:"version,omitempty"`
	MachineID         string   `json:"machineId,omitempty"`
	SortKey           string   `json:"sortKey,omitempty"`
	Linux             string   `json:"linux,omitempty"`
	UKI               string   `json:"uki,omitempty"`
	EFI               string   `json:"efi,omitempty"`
	UKIURL            string   `json:"ukiUrl,omitempty"`
	Initrds           []string `json:"initrd,omitempty"`
	Options           string   `json:"options,omitempty"` // as passed: not the embedded ones
	Profile           int      `json:"profile"`
	DeviceTree        string   `json:"devicetree,omitempty"`
	DeviceTreeOverlay []string `json:"devicetreeOverlay,omitempty"`
	Extra             []string `json:"extras,omitempty"`
	Ignored           []string `json:"ignored,omitempty"` // unknown keys
	TriesLeft         *int     `json:"triesLeft,omitempty"`
	TriesDone         *int     `json:"triesDone,omitempty"`
	Default           bool     `json:"isDefault"`
	Running           bool     `json:"isRunning"`
	Broken            string   `json:"broken,omitempty"` // why
}

func (p *partitions) list(menu *bls.Menu) *entryList {
	l := &entryList{Version: 1, Entries: []entryJSON{}}
	if e, err := menu.Default(); err != nil {
		l.Reason = err.Error()
	} else {
		l.Default = e.ID
	}
	for _, e := range menu.Entries {
		j := entryJSON{
			ID: e.ID, Type: e.Type, Partition: e.Partition, Path: path.Join(p.dir(e.Partition), e.Path),
			Title: e.Title, Version: e.Version, MachineID: e.MachineID, SortKey: e.SortKey,
			Linux: e.Linux, UKI: e.UKI, EFI: e.EFI, UKIURL: e.UKIURL, Initrds: e.Initrds, Options: e.Options, Profile: e.Profile,
			DeviceTree: e.DeviceTree, DeviceTreeOverlay: e.DeviceTreeOverlay, Extra: e.Extra, Ignored: e.Ignored,
			Default: e.Default, Running: e.Running,
		}
		if e.Counter != nil {
			j.TriesLeft, j.TriesDone = &e.Counter.Left, &e.Counter.Done
		}
		if e.Broken != nil {
			j.Broken = e.Broken.Error()
		}
		l.Entries = append(l.Entries, j)
	}
	return l
}

func (l *entryList) print(out *bytes.Buffer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "ID\tTITLE\tTYPE\tPROFILE\tTRIES\tFLAGS\n")
	for _, e := range l.Entries {
		tries := "-"
		if e.TriesLeft != nil {
			tries = fmt.Sprintf("%d left, %d done", *e.TriesLeft, *e.TriesDone)
		}
		var flags []string
		if e.Default {
			flags = append(flags, "default")
		}
		if e.Running {
			flags = append(flags, "running")
		}
		if e.Broken != "" {
			flags = append(flags, "broken: "+quoteUnprintable(e.Broken))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", quoteUnprintable(e.ID), quoteUnprintable(cmp.Or(e.Title, "-")), e.Type, e.Profile,
			tries, cmp.Or(strings.Join(flags, ", "), "-"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if l.Reason != "" {
		fmt.Fprintf(out, "no %s\n", quoteUnprintable(l.Reason))
	}
	return nil
}
