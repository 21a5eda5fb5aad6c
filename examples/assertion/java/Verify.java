// Verify an X-Auth-Assertion: java -cp nimbus-jose-jwt.jar Verify.java JWKS_URL ISSUER AUDIENCE < assertion
import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.jwk.source.JWKSourceBuilder;
import com.nimbusds.jose.proc.DefaultJOSEObjectTypeVerifier;
import com.nimbusds.jose.proc.JWSVerificationKeySelector;
import com.nimbusds.jose.proc.SecurityContext;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.proc.DefaultJWTClaimsVerifier;
import com.nimbusds.jwt.proc.DefaultJWTProcessor;
import java.net.URL;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;

public class Verify {
    /** Fetches the keys when it needs them, and keeps them. */
    static DefaultJWTProcessor<SecurityContext> processor(String jwksUrl, String issuer, String audience)
            throws Exception {
        var keys = JWKSourceBuilder.create(new URL(jwksUrl)).build();
        var processor = new DefaultJWTProcessor<>();
        processor.setJWSTypeVerifier(
                new DefaultJOSEObjectTypeVerifier<>(new JOSEObjectType("auth-assertion+jwt")));
        processor.setJWSKeySelector(new JWSVerificationKeySelector<>(JWSAlgorithm.ES256, keys));
        var expected = new JWTClaimsSet.Builder().issuer(issuer).build();
        processor.setJWTClaimsSetVerifier(
                new DefaultJWTClaimsVerifier<>(audience, expected, Set.of("sub", "exp", "iat")));
        return processor;
    }

    public static void main(String[] arguments) throws Exception {
        String assertion = new String(System.in.readAllBytes()).trim();
        JWTClaimsSet claims = processor(arguments[0], arguments[1], arguments[2]).process(assertion, null);
        Object groups = claims.getJSONObjectClaim("actor").getOrDefault("groups", List.of());
        String names = ((List<?>) groups).stream().map(String::valueOf).collect(Collectors.joining(","));
        System.out.println(claims.getSubject() + " " + names);
    }
}
