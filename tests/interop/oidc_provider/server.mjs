// A real OpenID provider for the interop tests: client credentials, JWT access tokens (RFC 9068; opaque ones for the
// resource urn:opaque, with introspection), and two
// controls of the test's own: POST /control/rotate (sign with a new key, go on publishing the old one) and
// POST /control/withdraw (publish the signing key only). Usage: node server.mjs PORT
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
let serial = 0;
let keys = [newKey()];
let handle = newProvider();

function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  serial += 1;
  return { ...privateKey.export({ format: 'jwk' }), kid: `key-${serial}`, use: 'sig', alg: 'RS256' };
}

function newProvider() {
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: [{
      client_id: 'ingestion',
      client_secret: 'ingestion-secret-for-tests-only',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    }],
    features: {
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:metadata',
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => ({
          scope: '',
          audience: 'metadata',
          accessTokenTTL: 600,
          ...(resource === 'urn:opaque'
            ? { accessTokenFormat: 'opaque' }
            : { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } }),
        }),
      },
    },
  });
  return provider.callback();
}

const controls = {
  '/control/rotate': () => { keys = [newKey(), ...keys]; },
  '/control/withdraw': () => { keys = keys.slice(0, 1); },
};

createServer((request, response) => {
  const control = request.method === 'POST' && controls[request.url];
  if (!control) {
    handle(request, response);
    return;
  }
  control();
  handle = newProvider();
  response.writeHead(204).end();
}).listen(port, '127.0.0.1');
