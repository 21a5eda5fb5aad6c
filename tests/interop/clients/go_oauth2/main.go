// Requests a token with client credentials and prints it as JSON.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

func main() {
	url, id, secret, style := os.Args[1], os.Args[2], os.Args[3], oauth2.AuthStyleInHeader
	if os.Args[4] == "params" {
		style = oauth2.AuthStyleInParams
	}
	config := clientcredentials.Config{
		ClientID: id, ClientSecret: secret, TokenURL: url, AuthStyle: style, Scopes: []string{"read"},
	}
	token, err := config.Token(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	answer := map[string]any{"token": token.AccessToken, "type": token.TokenType, "scope": token.Extra("scope")}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		log.Fatal(err)
	}
}
