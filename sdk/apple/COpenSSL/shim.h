// OpenSSL 3.5 for the tests of the core on Linux; on Apple systems CryptoKit does this work. The functions here are calls whose parameter
// lists Swift cannot build. All return 1 for done.
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hpke.h>
#include <openssl/kdf.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>

static inline int corelocker_hkdf(const unsigned char *key, size_t key_size, const unsigned char *salt, size_t salt_size,
                                  const unsigned char *info, size_t info_size, unsigned char *out, size_t size) {
  EVP_KDF *const kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
  EVP_KDF_CTX *const context = EVP_KDF_CTX_new(kdf);
  EVP_KDF_free(kdf);
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key, key_size),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)salt, salt_size),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info, info_size),
      OSSL_PARAM_construct_end(),
  };
  const int done = context != NULL ? EVP_KDF_derive(context, out, size, parameters) : 0;
  EVP_KDF_CTX_free(context);
  return done;
}

// A P-256 key of an uncompressed point, with its private scalar where one is given; NULL when the point is not on the curve.
static inline EVP_PKEY *corelocker_p256(const unsigned char *point, size_t point_size, const unsigned char *scalar,
                                        size_t scalar_size) {
  EVP_PKEY *key = NULL;
  OSSL_PARAM *parameters = NULL;
  OSSL_PARAM_BLD *const builder = OSSL_PARAM_BLD_new();
  EVP_PKEY_CTX *const context = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
  BIGNUM *const number = scalar != NULL ? BN_bin2bn(scalar, (int)scalar_size, NULL) : NULL;
  if (builder != NULL && context != NULL && (scalar == NULL || number != NULL) &&
      OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) == 1 &&
      OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point, point_size) == 1 &&
      (number == NULL || OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_PRIV_KEY, number) == 1) &&
      (parameters = OSSL_PARAM_BLD_to_param(builder)) != NULL && EVP_PKEY_fromdata_init(context) == 1) {
    if (EVP_PKEY_fromdata(context, &key, number != NULL ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, parameters) != 1) {
      key = NULL;
    }
  }
  OSSL_PARAM_free(parameters);
  OSSL_PARAM_BLD_free(builder);
  EVP_PKEY_CTX_free(context);
  BN_clear_free(number);
  return key;
}

// HPKE (RFC 9180), base mode, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, without AAD.
static inline int corelocker_hpke_open(EVP_PKEY *key, const unsigned char *encapsulated, size_t encapsulated_size,
                                       const unsigned char *ciphertext, size_t ciphertext_size,
                                       const unsigned char *info, size_t info_size, unsigned char *plaintext,
                                       size_t *plaintext_size) {
  const OSSL_HPKE_SUITE suite = {OSSL_HPKE_KEM_ID_P256, OSSL_HPKE_KDF_ID_HKDF_SHA256, OSSL_HPKE_AEAD_ID_AES_GCM_256};
  OSSL_HPKE_CTX *const context = OSSL_HPKE_CTX_new(OSSL_HPKE_MODE_BASE, suite, OSSL_HPKE_ROLE_RECEIVER, NULL, NULL);
  const int done = context != NULL &&
                   OSSL_HPKE_decap(context, encapsulated, encapsulated_size, key, info, info_size) == 1 &&
                   OSSL_HPKE_open(context, plaintext, plaintext_size, NULL, 0, ciphertext, ciphertext_size) == 1;
  OSSL_HPKE_CTX_free(context);
  return done;
}

// A new P-256 key pair: the uncompressed point (65 bytes) and the private scalar (32 bytes).
static inline int corelocker_p256_generate(unsigned char point[65], unsigned char scalar[32]) {
  EVP_PKEY *const key = EVP_EC_gen("P-256");
  BIGNUM *number = NULL;
  size_t size = 0;
  const int done = key != NULL && EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_PRIV_KEY, &number) == 1 &&
                   BN_bn2binpad(number, scalar, 32) == 32 &&
                   EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point, 65, &size) == 1 && size == 65;
  BN_clear_free(number);
  EVP_PKEY_free(key);
  return done;
}
