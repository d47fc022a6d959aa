package policy

import (
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/strictyaml"
	"go.yaml.in/yaml/v3"
)

// parseImage parses the part image of a policy file.
func parseImage(n *yaml.Node) (r ImageRules, err error) {
	keys, err := strictyaml.Mapping(n, "image", "trust", "sbat", "certificates", "cmdline", "allow")
	if err != nil {
		return r, err
	}
	if r.Trust, err = parseTrust(keys["trust"], "trust"); err != nil {
		return r, err
	}
	if r.SBAT, err = parseTrust(keys["sbat"], "sbat"); err != nil {
		return r, err
	}
	certificate := func(n *yaml.Node) (string, error) { return parsePath(n, "certificates") }
	if r.Certificates, err = parseList(keys["certificates"], "certificates", certificate); err != nil {
		return r, err
	}
	if err := r.parseCmdline(keys["cmdline"]); err != nil {
		return r, err
	}
	r.Allow, err = parseList(keys["allow"], "allow", parseImageRule)
	return r, err
}

func parseTrust(n *yaml.Node, what string) (Trust, error) {
	if n == nil {
		return TrustAuto, nil
	}
	if t := Trust(n.Value); t == TrustRequired || t == TrustReported {
		return t, nil
	}
	return "", strictyaml.Error(n, "%s: %.20q: unknown (known: %s %s)", what, n.Value, TrustRequired, TrustReported)
}

// embedded is the word for the command line that is in the image.
const embedded = "embedded"

// parseCmdline parses the word embedded, or a list of patterns.
func (r *ImageRules) parseCmdline(n *yaml.Node) (err error) {
	if n != nil && n.Kind == yaml.ScalarNode {
		if r.EmbeddedCmdline = n.Value == embedded; !r.EmbeddedCmdline {
			return strictyaml.Error(n, "cmdline: %.40q: neither the word %s nor a list of patterns", n.Value, embedded)
		}
		return nil
	}
	r.Cmdlines, err = parseList(n, "cmdline", func(n *yaml.Node) (string, error) { return text(n, "cmdline", maxPath) })
	return err
}

func parseImageRule(n *yaml.Node) (r ImageRule, err error) {
	keys, err := strictyaml.Mapping(n, "an allowed image", "sha256", "signer", "id", "min-version")
	if err != nil {
		return r, err
	}
	digest := func(key string) (d measure.Digest) {
		if v := keys[key]; v != nil && err == nil {
			if d, err = measure.ParseDigest(measure.SHA256, v.Value); err != nil {
				err = strictyaml.Error(v, "%s: %w", key, err)
			}
		}
		return d
	}
	word := func(key string) (s string) {
		if v := keys[key]; v != nil && err == nil {
			if s, err = text(v, key, maxName); err == nil && !isReleaseWord(s) {
				err = strictyaml.Error(v, "%s: %.80q: not letters, digits and . _ + - ^ ~ only", key, s)
			}
		}
		return s
	}
	r = ImageRule{SHA256: digest("sha256"), Signer: digest("signer"), ID: word("id"), MinVersion: word("min-version")}
	if err == nil && r.MinVersion != "" && r.ID == "" {
		err = strictyaml.Error(keys["min-version"], "min-version: wants id: versions of one image are not those of another")
	}
	return r, err
}

// parseList parses a list with at least one entry; nil for none.
func parseList[T any](n *yaml.Node, what string, parse func(*yaml.Node) (T, error)) (values []T, err error) {
	if n == nil {
		return nil, nil
	}
	entries, err := list(n, what)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		v, err := parse(e)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}
