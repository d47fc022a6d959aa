package hwid

import (
	"fmt"
	"regexp"

	"github.com/mkexec/mkexec/measure/strictyaml"
	"go.yaml.in/yaml/v3"
)

// MaxFileSize is the size in bytes above which a hardware file is refused.
const MaxFileSize = 64 << 10

// maxString bounds the strings of a hardware file, in bytes.
const maxString = 4096

var (
	// compatibleText is what the Devicetree Specification 0.4, section 2.3.1,
	// recommends, with all printable ASCII but spaces.
	compatibleText = regexp.MustCompile(`^[!-~]{1,255}$`)
	panelText      = regexp.MustCompile(`^[@A-Z]{3}[0-9a-f]{4}$`)
)

// ParseMachine parses a hardware file, which describes the firmware of a machine
// that is not the running one, or that the running system does not show:
//
//	version: 1
//	devicetree: lenovo,thinkpad-x13s   # the firmware's, or none
//	panel: RHT1234                     # or none
//	smbios:                            # or none
//	  manufacturer: LENOVO
//	  family: ThinkPad X13s Gen 1
//	  product-name: 21BX0016US
//	  sku: LENOVO_MT_21BX_BU_Think_FM_ThinkPad X13s Gen 1
//	  baseboard-manufacturer: LENOVO
//	  baseboard-product: 21BX0016US
//	  cmdline-extra: quiet
//	secure-boot: yes
//	confidential-vm: no
//
// What is left out is not known. An empty SMBIOS string, written "", is one that
// the machine does not have. The file is taken strictly: an unknown key, a key
// that is there twice or without a value, and a value of another form are errors,
// with the line.
func ParseMachine(data []byte) (*Machine, error) {
	n, err := strictyaml.Parse(data, MaxFileSize)
	if err != nil {
		return nil, fmt.Errorf("hardware: %w", err)
	}
	m, err := parseFile(n)
	if err != nil {
		return nil, fmt.Errorf("hardware: %w", err)
	}
	return m, nil
}

func parseFile(n *yaml.Node) (*Machine, error) {
	keys, err := strictyaml.Mapping(n, "the machine", "version", "devicetree", "panel", "smbios", "secure-boot", "confidential-vm")
	if err != nil {
		return nil, err
	}
	if err := strictyaml.Version(n, keys); err != nil {
		return nil, err
	}
	m := &Machine{}
	if m.FirmwareDevicetree, err = parseName(keys["devicetree"], "devicetree", compatibleText,
		"the first compatible string of the firmware's devicetree, or none"); err != nil {
		return nil, err
	}
	if m.Panel, err = parseName(keys["panel"], "panel", panelText,
		"three upper-case letters and four lower-case hexadecimal digits, or none"); err != nil {
		return nil, err
	}
	if err = parseSMBIOS(keys["smbios"], m); err != nil {
		return nil, err
	}
	if m.SecureBoot, err = parseBool(keys["secure-boot"], "secure-boot"); err != nil {
		return nil, err
	}
	if m.ConfidentialVM, err = parseBool(keys["confidential-vm"], "confidential-vm"); err != nil {
		return nil, err
	}
	return m, nil
}

func parseSMBIOS(n *yaml.Node, m *Machine) error {
	if n == nil {
		return nil
	}
	facts := map[string]*Fact{
		"manufacturer":           &m.SMBIOS.Manufacturer,
		"family":                 &m.SMBIOS.Family,
		"product-name":           &m.SMBIOS.ProductName,
		"sku":                    &m.SMBIOS.SKU,
		"baseboard-manufacturer": &m.SMBIOS.BaseboardManufacturer,
		"baseboard-product":      &m.SMBIOS.BaseboardProduct,
		"cmdline-extra":          &m.CmdlineExtra,
	}
	if n.Kind == yaml.ScalarNode && n.Value == "none" {
		for _, f := range facts {
			*f = Known("")
		}
		return nil
	}
	known := []string{"manufacturer", "family", "product-name", "sku", "baseboard-manufacturer", "baseboard-product", "cmdline-extra"}
	keys, err := strictyaml.Mapping(n, "smbios", known...)
	if err != nil {
		return err
	}
	for _, key := range known { // in a fixed order, for the error
		v := keys[key]
		if v == nil {
			continue
		}
		s, err := scalar(v, key)
		if err != nil {
			return err
		}
		if err := checkText(s); err != nil {
			return strictyaml.Error(v, "%s: %w", key, err)
		}
		*facts[key] = Known(s)
	}
	return nil
}

// parseName parses a string of a certain form, or none.
func parseName(n *yaml.Node, key string, form *regexp.Regexp, want string) (Fact, error) {
	if n == nil {
		return nil, nil
	}
	s, err := scalar(n, key)
	if err != nil {
		return nil, err
	}
	if s == "none" {
		return Known(""), nil
	}
	if !form.MatchString(s) {
		return nil, strictyaml.Error(n, "%s: %.80q: not %s", key, s, want)
	}
	return Known(s), nil
}

func parseBool(n *yaml.Node, key string) (*bool, error) {
	if n == nil {
		return nil, nil
	}
	yes := n.Value == "yes"
	if n.Kind != yaml.ScalarNode || !yes && n.Value != "no" {
		return nil, strictyaml.Error(n, "%s: %.40q: neither yes nor no", key, n.Value)
	}
	return &yes, nil
}

// scalar returns the text of a value as it is written, so that 0042 is not a number.
func scalar(n *yaml.Node, key string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" || n.ShortTag() == "!!binary" {
		return "", strictyaml.Error(n, "%s: not a text (an empty one is written \"\")", key)
	}
	if len(n.Value) > maxString {
		return "", strictyaml.Error(n, "%s: more than %d bytes", key, maxString)
	}
	return n.Value, nil
}
