package org.corelocker.demo.model

import org.corelocker.core.Purchase

/** Where tiers are bought: Google Play, or the development purchases of an emulator. */
interface Shop {
    /** What can be bought, the cheapest first. Throws [ShopException]. */
    suspend fun offers(): List<Offer>

    /** Sells a tier; suspends while the shop shows its own screens. Throws [ShopException]. */
    suspend fun buy(offer: Offer): Sale

    /** What this customer has bought before and still owns. Throws [ShopException]. */
    suspend fun owned(): List<Order>

    /**
     * Tells the shop that the customer got what was paid for. Google Play refunds what is not acknowledged within three days,
     * so it is done after the unlock, and never before. Throws [ShopException].
     */
    suspend fun acknowledge(order: Order)
}

/**
 * A tier for sale.
 *
 * @property price as the shop words it, with its currency.
 */
data class Offer(
    val tier: String,
    val price: String,
)

/**
 * Something bought.
 *
 * @property purchase what proves it to the unlock service.
 * @property acknowledged whether the shop knows that the customer got it.
 * @property reference by which the shop knows it.
 */
class Order(
    val tier: String,
    val purchase: Purchase,
    val acknowledged: Boolean,
    val reference: String,
)

/** How a sale ended. */
sealed interface Sale {
    data class Sold(
        val order: Order,
    ) : Sale

    /** The customer changed their mind. */
    data object Cancelled : Sale

    /** The payment is under way: cash, or a parent's approval. The order shows up among those that are owned. */
    data object Pending : Sale

    /** It was bought before: it can be restored. */
    data object AlreadyOwned : Sale
}

/** The shop does not work now. The message is for the developer. */
class ShopException(
    message: String,
) : Exception(message)
