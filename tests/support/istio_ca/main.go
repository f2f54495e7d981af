// Serves Istio's own CA over gRPC and mutual TLS, with a P-256 authority in memory.
//
// It prints a line of JSON: the port, and in PEM the root and a client's chain and key. It serves until its standard
// input ends.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"istio.io/istio/pkg/log"
	"istio.io/istio/pkg/security"
	"istio.io/istio/security/pkg/pki/ca"
	"istio.io/istio/security/pkg/pki/util"
	caserver "istio.io/istio/security/pkg/server/ca"
	"istio.io/istio/security/pkg/server/ca/authenticate"
)

const (
	authorityTTL = 24 * time.Hour
	leafTTL      = time.Hour
	caller       = "spiffe://cluster.local/ns/shop/sa/cart"
)

type started struct {
	Port        int    `json:"port"`
	Root        string `json:"root"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve() error {
	// Debug logging is off in istiod as well.
	for _, scope := range log.Scopes() {
		scope.SetOutputLevel(log.ErrorLevel)
	}
	root, rootKey, err := util.GenCertKeyFromOptions(util.CertOptions{
		TTL: authorityTTL, Org: "cluster.local", IsCA: true, IsSelfSigned: true,
		ECSigAlg: util.EcdsaSigAlg, ECCCurve: util.P256Curve,
	})
	if err != nil {
		return err
	}
	bundle, err := util.NewVerifiedKeyCertBundleFromPem(root, rootKey, nil, root, nil)
	if err != nil {
		return err
	}
	authority, err := ca.NewIstioCA(&ca.IstioCAOptions{
		KeyCertBundle: bundle, DefaultCertTTL: leafTTL, MaxCertTTL: authorityTTL,
	})
	if err != nil {
		return err
	}
	serving, servingKey, err := issue(root, rootKey, "localhost")
	if err != nil {
		return err
	}
	certificate, err := tls.X509KeyPair(serving, servingKey)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: roots,
	})))
	service, err := caserver.New(
		authority, authorityTTL, []security.Authenticator{&authenticate.ClientCertAuthenticator{}}, nil,
	)
	if err != nil {
		return err
	}
	service.Register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	client, clientKey, err := issue(root, rootKey, caller)
	if err != nil {
		return err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := json.NewEncoder(os.Stdout).Encode(started{port, string(root), string(client), string(clientKey)}); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	return server.Serve(listener)
}

func issue(root, rootKey []byte, host string) ([]byte, []byte, error) {
	signer, err := util.ParsePemEncodedCertificate(root)
	if err != nil {
		return nil, nil, err
	}
	key, err := util.ParsePemEncodedKey(rootKey)
	if err != nil {
		return nil, nil, err
	}
	return util.GenCertKeyFromOptions(util.CertOptions{
		Host: host, TTL: leafTTL, SignerCert: signer, SignerPriv: key, IsClient: true, IsServer: true,
		ECSigAlg: util.EcdsaSigAlg, ECCCurve: util.P256Curve,
	})
}
