package org.corelocker.demo.app

import android.app.Activity
import android.content.Context
import android.content.res.AssetManager
import org.corelocker.core.Purchase
import org.corelocker.demo.model.Offer
import org.corelocker.demo.model.Order
import org.corelocker.demo.model.Sale
import org.corelocker.demo.model.ShopException
import java.io.IOException

/** The shop of this flavor. */
internal fun shop(
    context: Context,
    tiers: List<String>,
): ForegroundShop = DevelopmentShop(context.assets, tiers, Purchases(context))

/**
 * Sells the development service's grants, which the build has put among the assets, for nothing. It behaves as a shop does:
 * what was bought is remembered and can be restored.
 */
internal class DevelopmentShop(
    private val assets: AssetManager,
    private val tiers: List<String>,
    private val purchases: Purchases,
) : ForegroundShop {
    override var activity: Activity? = null

    override suspend fun offers(): List<Offer> = tiers.map { Offer(it, PRICE) }

    override suspend fun buy(offer: Offer): Sale {
        val order = order(offer.tier)
        purchases.add(offer.tier)
        return Sale.Sold(order)
    }

    override suspend fun owned(): List<Order> = tiers.filter(purchases::has).map(::order)

    override suspend fun acknowledge(order: Order) = purchases.acknowledge(order.tier)

    private fun order(tier: String): Order {
        val name = "grant-$tier.jws"
        val grant =
            try {
                assets.open(name).use { it.readBytes().decodeToString().trim() }
            } catch (_: IOException) {
                throw ShopException("there is no asset $name")
            }
        return Order(tier, Purchase.grant(grant), purchases.isAcknowledged(tier), reference = name)
    }

    private companion object {
        const val PRICE = "€0.00"
    }
}

/** What was bought on this emulator. */
internal class Purchases(
    context: Context,
) {
    private val preferences = context.getSharedPreferences("purchases", Context.MODE_PRIVATE)

    fun add(tier: String) {
        if (!has(tier)) preferences.edit().putBoolean(tier, false).apply()
    }

    fun has(tier: String): Boolean = preferences.contains(tier)

    fun isAcknowledged(tier: String): Boolean = preferences.getBoolean(tier, false)

    fun acknowledge(tier: String) = preferences.edit().putBoolean(tier, true).apply()
}
