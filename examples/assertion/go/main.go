// Verify an X-Auth-Assertion: go run . JWKS_URL ISSUER AUDIENCE < assertion
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
)

type claims struct {
	Actor struct {
		Groups []string `json:"groups"`
	} `json:"actor"`
}

// verifier fetches the keys when it needs them, and keeps them.
func verifier(ctx context.Context, jwksURL, issuer, audience string) *oidc.IDTokenVerifier {
	keys := oidc.NewRemoteKeySet(ctx, jwksURL)
	return oidc.NewVerifier(issuer, keys, &oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{"ES256"}})
}

func verify(ctx context.Context, v *oidc.IDTokenVerifier, assertion string) (*oidc.IDToken, error) {
	token, err := v.Verify(ctx, assertion) // signature, iss, aud, exp
	if err != nil {
		return nil, err
	}
	var header struct{ Typ string }
	raw, err := base64.RawURLEncoding.DecodeString(strings.SplitN(assertion, ".", 2)[0])
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &header); err != nil {
		return nil, err
	}
	if header.Typ != "auth-assertion+jwt" || token.Subject == "" {
		return nil, errors.New("not an assertion")
	}
	return token, nil
}

func main() {
	ctx := context.Background()
	text, _ := io.ReadAll(os.Stdin)
	token, err := verify(ctx, verifier(ctx, os.Args[1], os.Args[2], os.Args[3]), strings.TrimSpace(string(text)))
	var c claims
	if err == nil {
		err = token.Claims(&c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(token.Subject, strings.Join(c.Actor.Groups, ","))
}
