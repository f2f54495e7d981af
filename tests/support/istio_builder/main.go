// Prints the RBAC filters that Istio's own builder makes of policies.
//
// It reads lines of JSON from its standard input, each {"trust_domains": [...], "documents": "YAML"}: the local trust
// domain with its aliases, and the AuthorizationPolicies of one workload. For each it writes a line: the filters for
// HTTP and for TCP, {"http": [...], "tcp": [...]} in the JSON form of protobuf, or {"problem": "..."} if Istio refuses a
// document.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	security "istio.io/api/security/v1beta1"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/security/authz/builder"
	"istio.io/istio/pilot/pkg/security/trustdomain"
	"istio.io/istio/pkg/config/validation"
	"istio.io/istio/pkg/log"
)

const maxLine = 16 << 20

type request struct {
	TrustDomains []string `json:"trust_domains"`
	Documents    string   `json:"documents"`
}

type response struct {
	HTTP    []json.RawMessage `json:"http"`
	TCP     []json.RawMessage `json:"tcp"`
	Problem string            `json:"problem,omitempty"`
}

func main() {
	// Istio logs to the standard output.
	options := log.DefaultOptions()
	options.OutputPaths = []string{"stderr"}
	if err := log.Configure(options); err != nil {
		fail(err)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, maxLine)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		answer, err := answer(lines.Bytes())
		if err != nil {
			answer = response{Problem: err.Error()}
		}
		if err := out.Encode(answer); err != nil {
			fail(err)
		}
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
}

func answer(line []byte) (response, error) {
	var asked request
	if err := json.Unmarshal(line, &asked); err != nil {
		return response{}, err
	}
	policies, err := read(asked.Documents)
	if err != nil {
		return response{}, err
	}
	bundle := trustdomain.NewBundle(asked.TrustDomains[0], asked.TrustDomains[1:])
	made := builder.New(bundle, nil, policies, builder.Option{})
	if made == nil {
		return response{}, nil
	}
	var found response
	for _, filter := range made.BuildHTTP() {
		if found.HTTP, err = add(found.HTTP, filter); err != nil {
			return response{}, err
		}
	}
	for _, filter := range made.BuildTCP() {
		if found.TCP, err = add(found.TCP, filter); err != nil {
			return response{}, err
		}
	}
	return found, nil
}

func read(documents string) (model.AuthorizationPoliciesResult, error) {
	var found model.AuthorizationPoliciesResult
	configs, _, err := crd.ParseInputs(documents)
	if err != nil {
		return found, err
	}
	for _, config := range configs {
		if _, err := validation.ValidateAuthorizationPolicy(config); err != nil {
			return found, fmt.Errorf("%s/%s: %w", config.Namespace, config.Name, err)
		}
		spec := config.Spec.(*security.AuthorizationPolicy)
		policy := model.AuthorizationPolicy{
			Name: config.Name, Namespace: config.Namespace, Annotations: config.Annotations, Spec: spec,
		}
		switch spec.Action {
		case security.AuthorizationPolicy_ALLOW:
			found.Allow = append(found.Allow, policy)
		case security.AuthorizationPolicy_DENY:
			found.Deny = append(found.Deny, policy)
		case security.AuthorizationPolicy_AUDIT:
			found.Audit = append(found.Audit, policy)
		default:
			return found, fmt.Errorf("%s/%s: a provider decides", config.Namespace, config.Name)
		}
	}
	return found, nil
}

func add(filters []json.RawMessage, filter proto.Message) ([]json.RawMessage, error) {
	text, err := protojson.Marshal(filter)
	return append(filters, text), err
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
